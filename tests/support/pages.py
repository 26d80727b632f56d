"""What an HTML page would load."""

from html.parser import HTMLParser
from pathlib import Path


class Loads(HTMLParser):
    "What a page would load from elsewhere, its scripts, and its policy."

    def __init__(self):
        super().__init__()
        self.loads, self.scripts, self.policy = [], 0, ""

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.scripts += tag == "script"
        if tag == "meta" and (of.get("http-equiv") or "").lower() == "content-security-policy":
            self.policy = of["content"]
        for name, value in attributes:
            loading = name in ("src", "srcset", "data", "poster", "background", "xlink:href")
            loading |= name == "href" and tag != "a"
            style = name == "style" and "url(" in (value or "")
            if (loading or style) and not (value or "").startswith(("data:", "#")):
                self.loads.append(f"{tag} {name}={value!r:.80}")


def seen_in(path: Path) -> Loads:
    page = Loads()
    page.feed(path.read_text(encoding="utf-8"))
    return page
