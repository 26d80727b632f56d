// The API's documentation page. Its addresses begin where this file lies, whatever a proxy put before them.
const home = new URL("..", document.currentScript.src).href;
const show = (document) => SwaggerUIBundle({ ...document, dom_id: "#docs", deepLinking: true, validatorUrl: null });
fetch(`${home}openapi.json`)
  .then((answer) => answer.json())
  .then((spec) => show({ spec: { servers: [{ url: home.slice(0, -1) }], ...spec } }))
  .catch(() => show({ url: `${home}openapi.json` })); // it says what is wrong
