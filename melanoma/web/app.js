// The page of `melanoma serve`. Everything that comes from outside (file names, the server's
// sentences) reaches the document as text nodes and attributes, never as markup.

const TRIES = 4; // times that a busy server is asked again
const SLOW = 15; // seconds after which the page says that it takes long
const READY_EVERY = 2; // seconds
const NBSP = '\u00a0';

// preferred numbers, 20 to the decade: each step of the slider is 12 %, and each is easily read
const SERIES = [1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9];
const STOPS = Array.from({ length: 41 }, (_, i) => {
  const k = i + 14; // the series begins at 0.1 %, the slider at 0.5 %
  return Number((SERIES[k % 20] * 10 ** (Math.floor(k / 20) - 3)).toFixed(5));
});

const WHAT_TO_DO = {
  blank: 'Check that the file shows the lesion, and choose another image.',
  exposure: 'Take the image again in even light, neither too dark nor too bright.',
  blurred: 'Take the image again: hold the dermatoscope still and let it focus on the lesion.',
  not_a_lesion:
    'Use a dermoscopy image that shows one lesion. A phone photo of a mole is not dermoscopy.',
};

const state = {
  mode: null, // 'one' lesion, or 'many' of one patient
  items: [], // what was chosen, in the order it is sent
  open: null, // the item of a set whose detail is shown
  context: '', // the server's sentence on the set
  model: null, // what /v1/model says
  key: null,
  job: null, // what runs now
  trouble: null, // {title, text, again}: what went wrong last
  waking: '', // why the server is not ready; empty: it is, or it was not asked yet
  prevalence: 0.02,
  age: null, // the patient's, in years; null: not told
  heat: true,
  strength: 70,
};
let ready = null; // promise: settled when the server is ready, or gone
let live = []; // what follows the prevalence slider and the age
const turn = { one: 0, real: 0 };
let nextId = 1;

const $ = (id) => document.getElementById(id);
const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// ---------------------------------------------------------------- building blocks

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const copy = (template) => $(template).content.cloneNode(true);
const button = (text, kind, onclick, more = {}) =>
  h('button', { type: 'button', class: kind, onclick, ...more }, text);
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const count = (n) => n.toLocaleString('en-GB');
const sentence = (text) => (text ? `${text.trim().replace(/[.!]?$/, '.')}` : '');
const capital = (text) => (text ? text[0].toUpperCase() + text.slice(1) : '');

function say(text) {
  const status = $('status');
  status.textContent = ''; // the same sentence twice is said twice
  requestAnimationFrame(() => { status.textContent = text; });
}

// ---------------------------------------------------------------- numbers in words

function percent(p, whole = 9.95) {
  const v = p * 100;
  if (v < 0.1) return `under 0.1${NBSP}%`;
  if (v > 99) return `over 99${NBSP}%`;
  return `${v < whole ? v.toFixed(1) : Math.round(v)}${NBSP}%`;
}

// natural frequency: {words: 'about 7', n: 7, of: 100}
function frequency(p) {
  if (p < 0.001) return { words: 'fewer than 1', n: 1, of: 1000, few: true };
  if (p < 0.01) return about(Math.round(p * 1000), 1000);
  if (p > 0.99) return { words: 'more than 99', n: 100, of: 100 };
  return about(Math.round(p * 100), 100);
}
const about = (n, of) => ({ words: `about ${n}`, n, of });

// a share that somebody set: '2 of 100', '5 of 1,000'
function share(p) {
  for (const of of [100, 1000, 10000]) {
    const n = p * of;
    if (Math.abs(n - Math.round(n)) < 1e-6) return `${Math.round(n)} of ${count(of)}`;
  }
  return `${Number((p * 100).toPrecision(2))} of 100`;
}

// Bayes' rule: the odds, times the ratio of the prior odds
function moved(p, from, to) {
  const yes = p * (to / from);
  const no = (1 - p) * ((1 - to) / (1 - from));
  return yes / (yes + no);
}

const isNumber = (x) => typeof x === 'number' && Number.isFinite(x);

// the probability of a patient of that age, by the line that the model's calibration found
function aged(p) {
  const line = state.model?.age;
  if (!line || !isNumber(state.age) || p <= 0 || p >= 1) return p;
  const odds = line.slope * Math.log(p / (1 - p)) + line.offset;
  return 1 / (1 + Math.exp(-odds - (line.per_decade * (state.age - line.centre)) / 10));
}

// {p, raw}: the probability at the slider's prevalence, or the raw score where nothing is calibrated
function chance(result) {
  if (isNumber(result.study_probability) && isNumber(result.study_prevalence)) {
    return { p: moved(aged(result.study_probability), result.study_prevalence, state.prevalence), raw: false };
  }
  return { p: result.score, raw: true };
}

function score(p) {
  const n = Math.round(p * 100);
  if (n < 1) return 'under 1';
  return n > 99 ? 'over 99' : String(n);
}

const studyData = () => (state.model?.drawings ? 'the drawn study data' : 'the study data');

function studyWords(result) {
  const f = frequency(result.study_probability);
  const were = f.n === 1 ? 'was a melanoma' : 'were melanomas';
  return `Of ${count(f.of)} lesions scored like this, ${f.words} ${were} in ${studyData()}.`;
}

function whereWords(p) {
  const f = frequency(p);
  const are = f.n === 1 ? 'is a melanoma' : 'are melanomas';
  return (
    `Where ${share(state.prevalence)} lesions are melanomas, ${f.words} of ${count(f.of)} ` +
    `scored like this ${are}${state.model?.age && isNumber(state.age) ? `, at ${count(state.age)} years of age` : ''}.`
  );
}

function plainWords(result) {
  const s = result.study_prevalence;
  const ratio = result.study_probability / (1 - result.study_probability) / (s / (1 - s));
  const than = `the average lesion of ${studyData()}`;
  if (ratio >= 4) return `Scored well above ${than}.`;
  if (ratio >= 1.5) return `Scored above ${than}.`;
  if (ratio > 1 / 1.5) return `Scored about like ${than}.`;
  const low = 'Low is never “no”: some melanomas score like this.';
  return `Scored ${ratio > 0.25 ? 'below' : 'well below'} ${than}. ${low}`;
}

function foldWords(folds) {
  if (folds.length === 1) return `The one model’s raw score is ${score(folds[0])} of 100.`;
  const [low, high] = [Math.min(...folds), Math.max(...folds)];
  const apart = high - low;
  const how =
    apart < 0.1 ? 'close together' : apart < 0.3 ? 'somewhat apart' : 'far apart, so take the number with more care';
  return (
    `The ${folds.length} models’ raw scores run from ${score(low)} to ${score(high)} of 100: ${how}.`
  );
}

// ---------------------------------------------------------------- talking to the server

class Trouble extends Error {
  constructor(kind, answer = {}) {
    super(kind);
    this.kind = kind; // 'cancelled', 'gone' or 'problem'
    this.answer = answer;
  }
}

const keyHeader = () => (state.key ? { 'X-API-Key': state.key } : {});

function retryAfter(value) {
  const seconds = Number.parseFloat(value ?? '');
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 1), 60) : 3;
}

// the server's addresses, wherever a proxy shows this file: below the folder over it
const addressOf = (path) => new URL(`../${path}`, import.meta.url).href;

async function get(path) {
  let answer;
  try {
    answer = await fetch(addressOf(path), { headers: keyHeader(), cache: 'no-store' });
  } catch {
    throw new Trouble('gone');
  }
  return answer;
}

async function json(answer) {
  try {
    return (await answer.json()) ?? {};
  } catch {
    return {};
  }
}

// XMLHttpRequest, because fetch does not tell how much is uploaded
function post(job, path, form, words) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open('POST', addressOf(path));
    request.setRequestHeader('Accept', 'application/json');
    for (const [name, value] of Object.entries(keyHeader())) request.setRequestHeader(name, value);
    let slow = null;
    const looking = () => {
      if (job.over || slow) return;
      progress(words.working);
      say(words.working);
      slow = setTimeout(() => {
        progress(`${words.working} This takes longer than usual.`);
        say('This takes longer than usual. Still working.');
      }, SLOW * 1000);
    };
    request.upload.onprogress = (event) => {
      if (event.lengthComputable && event.loaded < event.total) {
        const part = event.loaded / event.total;
        progress(`${words.sending}: ${Math.floor(part * 100)}${NBSP}%`, part);
      }
    };
    request.upload.onload = looking;
    request.onload = () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText) ?? {};
      } catch {
        // no JSON: the status says enough
      }
      done({ status: request.status, body, after: retryAfter(request.getResponseHeader('Retry-After')) });
    };
    request.onerror = () => fail(new Trouble('gone'));
    request.onloadend = () => clearTimeout(slow);
    job.stop = () => request.abort();
    progress(words.sending, 0);
    say(words.sending);
    request.send(form);
  });
}

// asks until there is an answer that asking again would not change
async function ask(job, path, form, words) {
  for (let busy = 0; ;) {
    await job.unless(untilReady());
    const answer = await job.unless(post(job, path, form(), words));
    if (answer.status === 200) return answer.body;
    if (answer.status === 401) {
      await job.unless(askKey(job));
      continue;
    }
    if (answer.status === 503) {
      const awake = await job.unless(get('readyz'));
      if (awake.status === 503) {
        ready = watch();
        continue;
      }
      if (busy < TRIES) {
        busy += 1;
        await pause(job, answer.after, `The server is busy. Asked ${busy} of ${TRIES} times more`);
        continue;
      }
    }
    throw new Trouble('problem', answer);
  }
}

async function pause(job, seconds, why) {
  say(`${why}; again in ${Math.ceil(seconds)} seconds.`);
  for (let left = Math.ceil(seconds); left > 0; left -= 1) {
    progress(`${why}; again in ${left}${NBSP}s.`);
    await job.unless(wait(Math.min(1, seconds)));
  }
}

// ---------------------------------------------------------------- is the server ready?

function untilReady() {
  ready ??= watch();
  return ready;
}

async function watch() {
  try {
    for (;;) {
      const answer = await get('readyz');
      if (answer.status !== 503) break;
      const body = await json(answer);
      wakingUp(body.detail || 'The model is being loaded');
      await wait(READY_EVERY);
    }
    wakingUp('');
    $('offline').hidden = true;
    if ((await loadModel()) === 401 && !state.job) askKey(null);
  } catch (trouble) {
    ready = null;
    wakingUp('');
    throw trouble;
  }
}

function wakingUp(detail) {
  const text = sentence(capital(detail));
  state.waking = text;
  $('waking').hidden = !text;
  if ($('waking-text').textContent !== text) $('waking-text').textContent = text;
  if (text && state.job) progress('Waiting until the model is ready.');
}

// → the HTTP status; 401 is the caller's to handle
async function loadModel() {
  const answer = await get('v1/model');
  if (answer.ok) {
    state.model = await json(answer);
    showModel();
  }
  return answer.status;
}

async function firstLook() {
  try {
    await untilReady();
  } catch {
    $('offline').hidden = Boolean(state.job || state.items.length);
  }
}

// ---------------------------------------------------------------- the key

let keyAsked = null; // {promise, done, fail} while the key is asked for

function askKey(job) {
  const wrong = state.key !== null;
  state.key = null;
  $('key').hidden = false;
  $('key-wrong').textContent = wrong ? 'That key was not accepted.' : '';
  $('key-cancel').hidden = !job;
  if (job) {
    progress('The server asks for a key before it looks at images.');
    $('key-field').focus();
  } else {
    say('This server asks for a key.');
  }
  if (!keyAsked) {
    keyAsked = {};
    keyAsked.promise = new Promise((done) => { keyAsked.done = done; });
  }
  return keyAsked.promise;
}

$('key-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const field = $('key-field');
  if (!field.value) return;
  state.key = field.value;
  let status;
  try {
    status = await loadModel();
  } catch {
    $('key-wrong').textContent = 'The server does not answer. Try again.';
    return;
  }
  if (status === 401) {
    state.key = null;
    $('key-wrong').textContent = 'That key was not accepted.';
    field.select();
    return;
  }
  field.value = '';
  $('key').hidden = true;
  $('key-wrong').textContent = '';
  const asked = keyAsked;
  keyAsked = null;
  asked?.done();
  if (state.job) $('job-title').focus();
  else $('choose-one').focus();
  say('The key is set.');
});

$('key-cancel').addEventListener('click', () => cancel());

// ---------------------------------------------------------------- jobs

class Job {
  constructor(title) {
    this.title = title;
    this.over = false;
    this.stop = () => {};
    this.ended = new Promise((_, fail) => { this.fail = fail; });
    this.ended.catch(() => {});
  }

  // the promise's value, unless the job is cancelled first
  unless(promise) {
    return Promise.race([promise, this.ended]);
  }

  cancel() {
    if (this.over) return;
    this.over = true;
    this.fail(new Trouble('cancelled'));
    this.stop();
  }
}

function begin(title) {
  state.job?.cancel();
  state.job = new Job(title);
  state.trouble = null;
  $('offline').hidden = true;
  return state.job;
}

function progress(text, part = null) {
  $('job-text').textContent = text;
  const bar = $('job-progress');
  if (part === null) bar.removeAttribute('value');
  else bar.value = part;
}

function showJob() {
  const { job, trouble } = state;
  const panel = $('job');
  panel.hidden = !job && !trouble;
  panel.classList.toggle('trouble', Boolean(trouble));
  $('job-title').textContent = trouble ? trouble.title : (job?.title ?? '');
  if (trouble) $('job-text').textContent = trouble.text;
  $('job-progress').hidden = Boolean(trouble);
  $('job-retry').hidden = !trouble?.again;
  $('job-cancel').hidden = !job;
  $('job-restart').hidden = !trouble;
}

function describe(trouble) {
  const kept = state.items.length ? ' Your images are still here.' : '';
  if (trouble.kind === 'cancelled') {
    return { title: 'Cancelled', text: `Nothing more is being sent.${kept}` };
  }
  if (trouble.kind === 'gone') {
    return {
      title: 'The server does not answer',
      text: `It may have been stopped, or the connection is down.${kept}`,
    };
  }
  const { status, body = {} } = trouble.answer;
  const detail = sentence(body.detail || body.title || `The server answered with the number ${status}`);
  if (status === 503) {
    return { title: 'The server is busy', text: `It was asked ${TRIES + 1} times.${kept} ${detail}` };
  }
  if (status === 413) return { title: 'Too much for this server', text: detail };
  if (status >= 500) return { title: 'The server failed', text: `${detail}${kept}` };
  return { title: 'The server could not use this', text: detail };
}

// runs `work(job)`; whatever goes wrong ends in a panel with a way on
async function run(title, work, again) {
  const job = begin(title);
  draw({ focus: 'job-title' });
  progress('');
  try {
    await work(job);
    job.over = true;
    if (state.job !== job) return;
    state.job = null;
    draw({ focus: 'result-title' });
  } catch (trouble) {
    job.over = true;
    if (state.job !== job) return; // another job took its place
    state.job = null;
    if (!(trouble instanceof Trouble)) {
      console.error(trouble);
      state.trouble = { title: 'The page failed', text: 'Something in this page went wrong.', again };
    } else {
      state.trouble = { ...describe(trouble), again };
      if (trouble.kind === 'gone') await whyGone();
    }
    draw({ focus: 'job-title' });
    say(`${state.trouble.title}. ${state.trouble.text}`);
  }
}

// a connection that breaks while the server is up: it refused to read on
async function whyGone() {
  try {
    await get('readyz');
    const most = state.model?.limits?.max_upload_mb;
    state.trouble.title = 'The connection broke off';
    state.trouble.text =
      'The server answers, but it did not take the upload to its end. Your images are still here.' +
      (most ? ` The most it takes is ${most}${NBSP}MB.` : '');
  } catch {
    ready = null;
  }
}

function cancel() {
  if (!state.job) return;
  $('key').hidden = true;
  keyAsked = null;
  state.job.cancel();
}

$('job-cancel').addEventListener('click', cancel);
$('job-retry').addEventListener('click', () => state.trouble?.again?.());
$('job-restart').addEventListener('click', () => startAgain());
$('offline-retry').addEventListener('click', () => {
  say('Trying again.');
  firstLook();
});

// ---------------------------------------------------------------- sending

const query = () => {
  const parameters = new URLSearchParams({ heatmap: 'true' });
  if (!state.model || state.model.calibration) parameters.set('prevalence', state.prevalence);
  return parameters;
};

function upload() {
  const one = state.mode === 'one';
  run(one ? 'Looking at the image' : 'Comparing the lesions', one ? sendOne : sendMany, upload);
}

function tooLarge(item) {
  const most = state.model?.limits?.max_upload_mb;
  if (!most || item.file.size <= most * 1e6) return false;
  unreadable(item, `The file is larger than ${most} MB, the most this server takes.`);
  return true;
}

function unreadable(item, detail) {
  item.status = 'unreadable';
  item.result = null;
  item.reason = sentence(capital(detail) || 'It is damaged, or it is not an image');
}

function take(item, result) {
  item.result = result;
  item.status = result.status === 'ok' && isNumber(result.score) ? 'ok' : 'refused';
  item.reason = sentence(capital(result.reason) || 'The server gave no reason');
}

async function sendOne(job) {
  const [item] = state.items;
  if (tooLarge(item)) return;
  const form = () => {
    const data = new FormData();
    data.append('image', item.file, item.name);
    return data;
  };
  const words = { sending: 'Sending the image', working: 'The model is looking at the image.' };
  try {
    take(item, await ask(job, `v1/predict?${query()}`, form, words));
  } catch (trouble) {
    const { status, body } = trouble.answer ?? {};
    if (![413, 415, 422].includes(status)) throw trouble;
    unreadable(item, body.detail || body.title);
  }
  say(item.status === 'ok' ? 'The result is there.' : 'There is no result for this image.');
}

async function sendMany(job) {
  let sent = state.items.filter((item) => item.status !== 'unreadable' && !tooLarge(item));
  while (sent.length) {
    const form = () => {
      const data = new FormData();
      for (const item of sent) data.append('images', item.file, item.name);
      return data;
    };
    const words = {
      sending: `Sending ${plural(sent.length, 'image')}`,
      working: `The model is looking at ${plural(sent.length, 'image')}.`,
    };
    try {
      const body = await ask(job, `v1/patient?${query()}`, form, words);
      if (body.lesions?.length !== sent.length) throw new Trouble('problem', { status: 502 });
      sent.forEach((item, i) => take(item, body.lesions[i]));
      state.context = body.context ?? '';
      break;
    } catch (trouble) {
      // some of the files are no images: they are set aside, and the rest is sent again
      const bad = (trouble.answer?.body?.images ?? []).filter((b) => sent[b.index]);
      if (!bad.length) throw trouble;
      for (const { index, detail } of bad) unreadable(sent[index], detail || trouble.answer.body.detail);
      sent = sent.filter((item) => item.status !== 'unreadable');
      say(`${plural(bad.length, 'file')} could not be read. The rest is sent again.`);
    }
  }
  if (!sent.length) state.context = 'None of the files could be read, so there is nothing to compare.';
  say(`The lesions are compared. ${state.context}`);
}

// ---------------------------------------------------------------- choosing images

function makeItem(file, more = {}) {
  return {
    id: nextId++,
    file,
    name: file.name || 'image',
    url: URL.createObjectURL(file),
    alt: '',
    drawn: false,
    note: '',
    status: 'waiting',
    result: null,
    reason: '',
    ...more,
  };
}

const forget = (items) => items.forEach((item) => URL.revokeObjectURL(item.url));

function startAgain({ quiet = false } = {}) {
  state.job?.cancel();
  forget(state.items);
  Object.assign(state, { mode: null, items: [], open: null, context: '', job: null, trouble: null });
  if (history.state?.open) history.replaceState(null, '');
  if (quiet) return;
  draw();
  $('choose-one').focus();
  say('Everything is cleared.');
}

// files that were dropped, pasted or chosen; `wanted`: the mode that was asked for by a button
async function receive(files, wanted = null) {
  if (!files.length) return;
  if (state.job) {
    say('Still working. Cancel first.');
    return;
  }
  const most = state.model?.limits?.max_images ?? 128;
  let join = wanted === 'add' || (state.mode === 'many' && wanted === null);
  const numbered = state.items.some((i) => i.status === 'ok' || i.status === 'waiting');
  if (!join && wanted === null && numbered) {
    const answer = await samePatient(files.length);
    if (!answer) return;
    join = answer === 'same';
  }
  const total = files.length + (join ? state.items.length : 0);
  if (total > most) {
    state.trouble = {
      title: 'Too many images',
      text: `These would be ${count(total)} images. One patient’s set has at most ${count(most)}; leave some out.`,
    };
    draw({ focus: 'job-title' });
    say(`${state.trouble.title}. ${state.trouble.text}`);
    return;
  }
  if (!join) startAgain({ quiet: true });
  state.mode = join || wanted === 'many' || files.length > 1 ? 'many' : 'one';
  state.items.push(...files.map((file) => makeItem(file)));
  leaveDetail();
  upload();
}

function samePatient(n) {
  const dialog = $('same');
  dialog.querySelector('[value=new]').textContent =
    `No: start again with the new ${n === 1 ? 'image' : 'images'}`;
  return new Promise((done) => {
    dialog.returnValue = '';
    const closed = () => {
      if (dialog.open) return; // an earlier question's event, which comes late
      dialog.removeEventListener('close', closed);
      done(dialog.returnValue);
    };
    dialog.addEventListener('close', closed);
    if (!dialog.open) dialog.showModal();
  });
}

for (const choice of $('same').querySelectorAll('button')) {
  choice.addEventListener('click', () => $('same').close(choice.value));
}

let picking = null; // the mode that the file dialog was opened for

function pick(wanted) {
  picking = wanted;
  const input = $(wanted === 'one' ? 'file-one' : 'file-many');
  input.value = '';
  input.click();
}

for (const input of [$('file-one'), $('file-many')]) {
  input.addEventListener('change', () => {
    receive([...input.files], picking ?? (input.multiple ? 'many' : 'one'));
    picking = null;
  });
}
$('choose-one').addEventListener('click', () => pick('one'));
$('choose-many').addEventListener('click', () => pick('many'));

document.addEventListener('paste', (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length || $('same').open) return;
  event.preventDefault();
  // a picture from the clipboard is always called image.png
  receive(files.map((f) => (f.name === 'image.png' ? new File([f], 'Pasted image', { type: f.type }) : f)));
});

// drag and drop, anywhere

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
let depth = 0;

function showDrop(event) {
  const n = [...event.dataTransfer.items].filter((i) => i.kind === 'file').length;
  const set = state.mode === 'many';
  const [big, small] = state.job
    ? ['Still working', 'Cancel first, or wait until the result is there.']
    : set
      ? ['Add to this patient’s lesions', 'All images must be of the same person.']
      : n > 1
        ? [`${n} images: one patient’s lesions`, 'All of the same person.']
        : ['One image: one lesion', 'Several at once: one patient’s lesions.'];
  $('drop-big').textContent = big;
  $('drop-small').textContent = small;
  $('drop').hidden = false;
}

addEventListener('dragenter', (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth += 1;
  showDrop(event);
});
addEventListener('dragover', (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = state.job ? 'none' : 'copy';
});
addEventListener('dragleave', (event) => {
  if (!carriesFiles(event)) return;
  depth -= 1;
  if (depth <= 0) endDrag();
});
addEventListener('drop', async (event) => {
  endDrag();
  if (!carriesFiles(event)) return;
  event.preventDefault();
  if ($('same').open) return;
  const files = await dropped(event.dataTransfer);
  if (files.length) receive(files);
  else say('There was no image in what was dropped.');
});

function endDrag() {
  depth = 0;
  $('drop').hidden = true;
}

// the files of a drop; a folder gives the files in it
async function dropped(transfer) {
  const plain = [...transfer.files]; // both lists are gone after the first wait
  const entries = [...transfer.items].map((i) => i.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((e) => e.isDirectory)) return plain;
  const files = [];
  const walk = async (entry) => {
    if (entry.name.startsWith('.') || entry.name === 'Thumbs.db') return;
    if (entry.isFile) {
      files.push(await new Promise((done, fail) => entry.file(done, fail)));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!part.length) return;
      for (const inner of part) await walk(inner);
    }
  };
  try {
    for (const entry of entries) await walk(entry);
  } catch {
    return plain;
  }
  return files.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
}

// examples: drawn ones and photographs

function tryExample(kind) {
  const mode = kind === 'many' ? 'many' : 'one';
  startAgain({ quiet: true });
  const fetched = [];
  const work = async (job) => {
    progress(state.waking ? 'Waiting until the model is ready.' : 'Fetching the examples.');
    await job.unless(untilReady());
    const list = await example(job, 'examples').then(json);
    const all = { one: list.lesions, real: list.photographs, many: list.patient }[kind];
    const wanted = mode === 'one' ? [all[turn[kind]++ % all.length]] : all;
    const drawn = kind !== 'real';
    for (const { url, alt, note = 'Drawing, not a photograph' } of wanted) {
      const blob = await (await example(job, url)).blob();
      const name = decodeURIComponent(url.split('/').pop());
      fetched.push([new File([blob], name, { type: blob.type }), { alt, note, drawn }]);
    }
    state.mode = mode;
    state.items = fetched.map(([file, more]) => makeItem(file, more));
    job.title = { one: 'Looking at the drawing', real: 'Looking at the photograph', many: 'Comparing the drawn lesions' }[kind];
    draw({ focus: 'job-title' });
    await (mode === 'one' ? sendOne(job) : sendMany(job));
  };
  run('Fetching the examples', work, () => (state.items.length ? upload() : tryExample(kind)));
}

async function example(job, path) {
  for (;;) {
    const answer = await job.unless(get(path));
    if (answer.ok) return answer;
    if (answer.status !== 401) {
      throw new Trouble('problem', { status: answer.status, body: await json(answer) });
    }
    await job.unless(askKey(job));
  }
}

$('example-one').addEventListener('click', () => tryExample('one'));
$('example-real').addEventListener('click', () => tryExample('real'));
$('example-many').addEventListener('click', () => tryExample('many'));

// ---------------------------------------------------------------- drawing the page

function draw({ focus = null } = {}) {
  const { items } = state;
  const any = items.length > 0 || Boolean(state.job);
  $('intake').hidden = any;
  document.body.classList.toggle('has-result', any);
  const result = $('result');
  document.querySelector('main').insertBefore($('job'), result); // out of the old result
  live = [];
  result.hidden = !items.length;
  if (!items.length) result.replaceChildren();
  else if (state.mode === 'one') result.replaceChildren(single(items[0]));
  else if (state.open) result.replaceChildren(single(state.open));
  else result.replaceChildren(set());
  const words = result.querySelector('.words');
  if (state.mode === 'one' && words && items[0].status === 'waiting') words.append($('job'));
  showJob();
  follow();
  document.title =
    items.length && !state.job ? 'Result: melanoma' : 'melanoma: a research classifier for dermoscopy images';
  if (focus && !keyAsked) {
    const target = $(focus) ?? $('result-title');
    target?.focus({ preventScroll: true });
    scrollTo({ top: 0, behavior: 'instant' });
    target?.closest('.panel')?.scrollIntoView({ block: 'nearest', behavior: 'instant' });
  }
}

const follow = () => live.forEach((update) => update());

function actions(...buttons) {
  return state.job ? [] : buttons.filter(Boolean);
}

function printLine() {
  const m = state.model;
  const when = new Date().toLocaleString('en-GB', { dateStyle: 'long', timeStyle: 'short' });
  const what = m
    ? `${m.name} ${m.version}, run “${m.run}”: ${m.arch} at ${m.size} px, ${plural(m.folds?.length ?? 0, 'fold')}, ${m.precision}`
    : 'melanoma';
  return `${when} · ${what}${m?.drawings ? ' · trained on drawings, says nothing about real skin' : ''}`;
}
addEventListener('beforeprint', () => {
  for (const line of document.querySelectorAll('.print-line')) line.textContent = printLine();
});

// one lesion: the whole result, or one of a set

function single(item) {
  const page = copy('single-template');
  const inSet = state.mode === 'many';
  const order = inSet ? ordered() : [];
  const place = order.indexOf(item);
  page.getElementById('result-title').textContent = titleOf(item);
  page.querySelector('.print-line').textContent = printLine();
  page.querySelector('.actions').append(
    ...(inSet
      ? [
          button('All lesions', 'back', closeDetail),
          place > 0 && button('Previous', 'quiet', () => openDetail(order[place - 1])),
          place < order.length - 1 && button('Next', 'quiet', () => openDetail(order[place + 1])),
          ...actions(button('Remove from the set', 'quiet', () => removeItem(item)), button('Print', 'quiet', () => print())),
        ].filter(Boolean)
      : item.status === 'waiting' ? [] : actions(
          button('Add this patient’s other lesions', '', () => pick('add')),
          button('Print', 'quiet', () => print()),
          button('Start again', 'quiet', () => startAgain()),
        )),
  );
  showImage(page, item);
  const words = page.querySelector('.words');
  if (item.status === 'ok') words.append(...okWords(item));
  else if (item.status === 'refused') words.append(...refusedWords(item));
  else if (item.status === 'unreadable') words.append(...unreadableWords(item));
  else if (inSet) words.append(h('p', {}, 'Not compared yet.'));
  return page;
}

function titleOf(item) {
  if (state.mode === 'many') {
    const n = state.items.filter((i) => i.status === 'ok').length;
    if (item.status === 'ok' && item.result.rank) return `Lesion ${item.result.rank} of ${n}, highest first`;
    return item.status === 'waiting' ? 'Lesion not compared yet' : 'Lesion without a number';
  }
  if (item.status === 'ok') return item.drawn ? 'Result for a drawn lesion' : 'Result';
  return item.status === 'waiting' ? 'Your image' : 'No result';
}

function showImage(page, item) {
  const name = page.querySelector('.name');
  name.textContent = item.name;
  page.querySelector('.drawn').textContent = item.note;
  page.querySelector('.drawn').hidden = !item.note;
  const stages = page.querySelectorAll('.stage');
  const missing = page.querySelector('.no-preview');
  const stagesBox = page.querySelector('.stages');
  for (const stage of stages) {
    const photo = stage.querySelector('.photo');
    photo.addEventListener('load', () => {
      const ratio = photo.naturalWidth / photo.naturalHeight;
      if (ratio) stage.style.setProperty('--ratio', ratio.toFixed(4));
    });
    photo.addEventListener('error', () => {
      stagesBox.hidden = true;
      missing.hidden = item.status === 'unreadable';
      missing.nextElementSibling?.classList.add('alone');
    });
    photo.src = item.url;
  }
  const [, over] = stages;
  over.querySelector('.photo').alt = item.alt || `The image ${item.name}`;
  const words = page.querySelector('.heat-words');
  if (item.status !== 'ok') {
    words.remove();
    page.querySelector('.plain').remove();
    return;
  }
  if (!item.result.heatmap) {
    const why = item.result.heatmap_reason || state.model?.heatmap_reason;
    words.textContent = `No heat map${why ? `: ${sentence(why)}` : ' for this image.'}`;
    page.querySelector('.plain').remove();
    return;
  }
  words.textContent =
    'The stronger the colour, the more that part of the image raised the score. It shows what ' +
    'the models reacted to, not where a melanoma is.';
  const heat = over.querySelector('.heat');
  heat.src = `data:image/png;base64,${item.result.heatmap}`;
  page.querySelector('.heat-controls').hidden = false;
  const toggle = page.querySelector('#heat-on');
  const strength = page.querySelector('#heat-strength');
  const apply = () => {
    heat.hidden = !state.heat;
    heat.style.opacity = String(state.strength / 100);
    stagesBox.classList.toggle('both', state.heat);
    strength.disabled = !state.heat;
    strength.setAttribute('aria-valuetext', `${state.strength} %`);
  };
  toggle.checked = state.heat;
  strength.value = state.strength;
  toggle.addEventListener('change', () => { state.heat = toggle.checked; apply(); });
  strength.addEventListener('input', () => { state.strength = Number(strength.value); apply(); });
  apply();
}

function okWords(item) {
  const { result } = item;
  const parts = [];
  if (result.ugly_duckling) parts.push(standout());
  const { raw } = chance(result);
  const number = h('data', { id: 'probability' });
  const where = h('p', { class: 'where' });
  if (raw) {
    number.value = String(result.score);
    number.textContent = `${score(result.score)} of 100`;
    parts.push(
      h('section', { class: 'headline' },
        h('div', {},
          h('h3', {}, 'Raw score'),
          h('p', { class: 'big' }, number),
          h('p', {}, 'This run is not calibrated: the score puts lesions in order, but it is not a probability.'))),
      caution(),
    );
  } else {
    const dots = svg('svg', { class: 'dots', 'aria-hidden': 'true', focusable: 'false' });
    parts.push(
      h('section', { class: 'headline' },
        h('div', {},
          h('h3', {}, 'Estimated probability of a melanoma'),
          h('p', { class: 'big' }, number),
          where,
          h('p', { class: 'plain-words' }, plainWords(result))),
        dots),
      prevalenceControl(result.study_prevalence),
      caution(),
      h('section', {},
        h('h3', {}, `In ${studyData()}`),
        h('p', { class: 'study' }, studyWords(result)),
        h('p', { class: 'quiet' },
          `${percent(result.study_probability)} there, where ${percent(result.study_prevalence, 99)} of all lesions were melanomas.`)),
    );
    live.push(() => {
      const { p } = chance(result);
      number.value = String(p);
      number.textContent = percent(p);
      where.textContent = whereWords(p);
      drawDots(dots, frequency(p));
    });
  }
  if (result.folds?.length) parts.push(folds(result));
  if (isNumber(result.outlier) || isNumber(result.distance)) parts.push(amongOthers(result));
  return parts;
}

// as many dots as lesions in the sentence beside it, as many dark ones as melanomas
function drawDots(picture, { n, of, few = false }) {
  const columns = of === 100 ? 10 : 40;
  if (picture.childElementCount !== of) {
    const rows = of / columns;
    picture.setAttribute('viewBox', `0 0 ${columns * 10} ${rows * 10}`);
    picture.replaceChildren(
      ...Array.from({ length: of }, (_, i) =>
        svg('circle', { cx: (i % columns) * 10 + 5, cy: Math.floor(i / columns) * 10 + 5, r: 3.9 })),
    );
  }
  [...picture.children].forEach((dot, i) => {
    dot.setAttribute('class', i < n ? (few ? 'part' : 'on') : '');
  });
}

function standout() {
  return h('p', { class: 'standout' },
    svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' },
      svg('path', { d: 'M12 3l2.6 5.9 6.4.6-4.9 4.2 1.5 6.3-5.6-3.4L6.4 20l1.5-6.3L3 9.5l6.4-.6z' })),
    h('strong', {}, 'Stands out from this patient’s other lesions'));
}

function folds(result) {
  const strip = h('div', { class: 'strip', role: 'img', 'aria-label': foldWords(result.folds) });
  for (const value of result.folds) {
    const dot = h('span', {});
    dot.style.left = `${value * 100}%`;
    strip.append(dot);
  }
  const ensemble = h('i', {});
  ensemble.style.left = `${result.score * 100}%`;
  strip.append(ensemble);
  return h('section', { class: 'folds' },
    h('h3', {}, 'How far the models agree'),
    strip,
    h('div', { class: 'ends', 'aria-hidden': 'true' }, h('span', {}, '0'), h('span', {}, 'raw score'), h('span', {}, '100')),
    h('p', {}, foldWords(result.folds)),
    h('p', { class: 'quiet' },
      `Together (the upright line): ${score(result.score)} of 100. A raw score puts lesions in order; it is not a probability.`));
}

function amongOthers(result) {
  const z = (v) => Math.abs(v).toFixed(1);
  const said = [];
  if (isNumber(result.outlier)) {
    said.push(`Its score lies ${z(result.outlier)} robust standard deviations ${result.outlier < 0 ? 'below' : 'above'} the middle of this patient’s lesions.`);
  }
  if (isNumber(result.distance)) {
    said.push(`How different it looks from them lies ${z(result.distance)} ${result.distance < 0 ? 'below' : 'above'} what is usual among them.`);
  }
  said.push('This comparison does not change the probability.');
  return h('section', {}, h('h3', {}, 'Among this patient’s lesions'), h('p', {}, said.join(' ')));
}

function caution({ numbers = true } = {}) {
  const box = copy('caution-template');
  if (!numbers) box.querySelector('.caution-low').remove();
  const which = state.mode === 'many' && !state.open ? 'a lesion' : 'this lesion';
  box.querySelector('.caution-doctor').textContent =
    `If ${which} worries you, show it to a doctor, ${numbers ? 'whatever the number' : 'with or without a number'}.`;
  const more = box.querySelector('.caution-more');
  const said = [];
  if (state.model?.drawings) said.push('The model learned from drawings and says nothing about real skin.');
  else if (state.model?.skin_tones) said.push(sentence(state.model.skin_tones));
  if (said.length) more.textContent = said.join(' ');
  else more.remove();
  return box;
}

function noNumber(title, reason, todo, item) {
  const retake = state.mode === 'one' && !state.job
    ? h('p', { class: 'actions' }, button('Choose another image', 'primary', () => pick('one')))
    : null;
  return [
    h('section', { class: 'no-number' },
      h('h3', {}, title),
      h('p', { class: 'reason' }, reason),
      todo ? h('p', {}, h('strong', {}, 'What to do: '), todo) : null,
      h('p', {}, 'There is no number, and that says nothing about the lesion, neither good nor bad.'),
      retake),
    caution({ numbers: false }),
  ];
}

function refusedWords(item) {
  const least = state.model?.limits?.min_side ?? 64;
  const todo =
    item.result.refusal === 'too_small'
      ? `Use the original image; its shorter side needs at least ${least} pixels.`
      : (WHAT_TO_DO[item.result.refusal] ?? 'Use a sharp, well lit dermoscopy image of one lesion.');
  return noNumber('This image was not scored', item.reason, todo, item);
}

function unreadableWords(item) {
  return noNumber('This file could not be read', item.reason,
    'Open it in another program to see whether it is whole, or save it again as JPEG or PNG.', item);
}

// the prevalence slider

function prevalenceControl(study) {
  const box = copy('prevalence-template');
  const input = box.querySelector('input');
  const now = box.querySelector('.prevalence-now');
  const mark = box.querySelector('.mark');
  const at = (p) => 20 * Math.log10(p / 0.005);
  box.querySelector('#prevalence-help').textContent =
    'Few among the moles of everybody, more among lesions that a doctor already picked out. The ' +
    'model cannot know it.' +
    (isNumber(study) ? ` In ${studyData()} it was ${percent(study, 99)} (the mark on the scale).` : '');
  if (isNumber(study) && at(study) >= 0 && at(study) <= 40) {
    mark.style.setProperty('--at', (at(study) / 40).toFixed(4));
  } else {
    mark.hidden = true;
  }
  input.value = String(Math.round(at(state.prevalence)));
  input.addEventListener('input', () => {
    state.prevalence = STOPS[Number(input.value)];
    follow();
  });
  live.push(() => {
    const short = `${Number((state.prevalence * 100).toPrecision(2))}${NBSP}%`;
    now.replaceChildren(h('strong', {}, `${share(state.prevalence)} lesions`), ` (${short})`);
    input.setAttribute('aria-valuetext', `${share(state.prevalence)} lesions, ${short}`);
    input.style.setProperty('--done', `${(Number(input.value) / 40) * 100}%`);
  });
  const age = box.querySelector('#age');
  if (state.model?.age) {
    if (isNumber(state.age)) age.value = String(state.age);
    age.addEventListener('input', () => {
      const told = age.value !== '' && age.checkValidity();
      state.age = told ? Number(age.value) : null;
      follow();
    });
  } else {
    box.querySelector('.age').remove();
  }
  return box;
}

// one patient's lesions

const rank = (item) =>
  item.status === 'ok' ? (item.result.rank ?? 1000) : { waiting: 2000, refused: 3000, unreadable: 4000 }[item.status];
const ordered = () => [...state.items].sort((a, b) => rank(a) - rank(b) || a.id - b.id);

function set() {
  const page = copy('set-template');
  const order = ordered();
  const ok = order.filter((i) => i.status === 'ok');
  const waiting = order.filter((i) => i.status === 'waiting');
  const rest = order.filter((i) => i.status === 'refused' || i.status === 'unreadable');
  const drawn = state.items.some((i) => i.drawn);
  page.getElementById('result-title').textContent = drawn
    ? 'One drawn patient’s lesions'
    : 'One patient’s lesions';
  page.querySelector('.print-line').textContent = printLine();
  page.querySelector('.actions').append(...actions(
    button('Add more lesions', '', () => pick('add')),
    button('Print', 'quiet', () => print()),
    button('Start again', 'quiet', () => startAgain())));
  page.querySelector('.context').textContent = state.job ? '' : state.context;
  const calibrated = ok.find((i) => !chance(i.result).raw);
  if (ok.length) {
    page.querySelector('.order-words').textContent =
      'The highest score comes first. The lowest can still be a melanoma.' +
      (drawn ? ' These are drawings, not photographs.' : '');
    page.querySelector('.set-words').append(caution());
    if (calibrated) page.querySelector('.set-side').append(prevalenceControl(calibrated.result.study_prevalence));
  } else {
    page.querySelector('.order-words').remove();
    if (rest.length && !waiting.length) page.querySelector('.set-words').append(caution());
  }
  const lists = page.querySelector('.lists');
  if (ok.length) lists.append(list('Scored, highest first', 'ol', ok));
  if (waiting.length) lists.append(list(state.job ? 'Your images' : 'Not compared yet', 'ul', waiting));
  if (rest.length) lists.append(list('Without a number', 'ul', rest));
  return page;
}

function list(title, kind, items) {
  return h('section', { class: 'list' }, h('h3', {}, title), h(kind, { class: 'cards' }, ...items.map(card)));
}

function card(item) {
  const picture = h('img', { src: item.url, alt: '', loading: 'lazy' });
  const thumb = h('span', { class: 'thumb' }, picture);
  picture.addEventListener('error', () => thumb.replaceChildren(h('span', { class: 'no-thumb' }, 'no preview')));
  const facts = h('span', { class: 'card-words' });
  let kind = item.status;
  if (item.status === 'ok') {
    const { result } = item;
    const number = h('data', { class: 'card-number' });
    facts.append(
      h('span', { class: 'card-rank' },
        h('span', { class: 'hidden-visually' }, 'Rank '), String(result.rank ?? '–')),
      number);
    const { raw } = chance(result);
    live.push(() => {
      const { p } = chance(result);
      number.value = String(p);
      number.textContent = raw ? `score ${score(p)} of 100` : percent(p);
    });
    if (result.ugly_duckling) {
      kind += ' odd';
      facts.append(h('span', { class: 'card-odd' }, 'Stands out from this patient’s other lesions'));
    }
    if (result.heatmap) {
      const heat = h('img', { class: 'heat print-only', src: `data:image/png;base64,${result.heatmap}`, alt: '' });
      heat.style.opacity = String(state.strength / 100);
      if (state.heat) thumb.append(heat);
    }
  } else if (item.status !== 'waiting') {
    facts.append(
      h('span', { class: 'card-none' }, item.status === 'refused' ? 'Not scored' : 'Could not be read'),
      h('span', { class: 'card-reason' }, item.reason));
  }
  facts.append(h('span', { class: 'card-name' }, item.name));
  const open = h('button', { type: 'button', class: 'card-open', id: `card-${item.id}`, onclick: () => openDetail(item) }, thumb, facts);
  return h('li', { class: `card ${kind}` }, open);
}

function openDetail(item) {
  if (state.open) history.replaceState({ open: true }, '');
  else history.pushState({ open: true }, '');
  state.open = item;
  draw({ focus: 'result-title' });
}

function leaveDetail() {
  state.open = null;
  if (history.state?.open) history.replaceState(null, '');
}

function closeDetail() {
  if (history.state?.open) history.back(); // popstate does the rest
  else showSet();
}

function showSet() {
  const item = state.open;
  state.open = null;
  draw();
  const back = item && $(`card-${item.id}`);
  back?.focus();
  back?.scrollIntoView({ block: 'nearest' });
}

addEventListener('popstate', () => { if (state.open) showSet(); });

function removeItem(item) {
  forget([item]);
  state.items = state.items.filter((i) => i !== item);
  leaveDetail();
  if (!state.items.length) {
    startAgain();
  } else if (item.status === 'unreadable' || state.items.every((i) => i.status === 'unreadable')) {
    draw({ focus: 'result-title' });
    say(`${item.name} is removed.`);
  } else {
    upload();
  }
}

// ---------------------------------------------------------------- about the model

function showModel() {
  const m = state.model;
  $('drawings').hidden = !m.drawings;
  const { limits = {}, metrics, training } = m;
  for (const place of document.querySelectorAll('.max-images')) {
    if (limits.max_images) place.textContent = count(limits.max_images);
  }
  if (limits.max_upload_mb) {
    $('limits').textContent =
      ` Up to ${limits.max_upload_mb} MB` +
      (limits.max_megapixels ? ` and ${limits.max_megapixels} megapixels` : '') +
      ' each: JPEG, PNG, WebP, TIFF or BMP.';
  }
  const facts = h('dl', { class: 'facts' });
  const fact = (name, ...what) => facts.append(h('div', {}, h('dt', {}, name), h('dd', {}, ...what)));
  if (m.drawings) fact('Learned from drawings', 'This model has never seen real skin. It shows how the program works.');
  if (m.made_for) fact('Made for', sentence(m.made_for));
  if (m.not_for) fact('Not for', sentence(m.not_for));
  if (m.skin_tones) fact('Skin tones', sentence(m.skin_tones));
  if (metrics) fact('How well it does', ...metricWords(metrics));
  else fact('How well it does', 'This run was not evaluated: nothing is known of how well it does.');
  if (m.calibration) {
    fact('Probability', `Calibrated on ${count(m.calibration.n)} held-out lesions, of which ${percent(m.calibration.prevalence, 99)} were melanomas.`);
  } else {
    fact('Probability', 'This run is not calibrated: it gives raw scores, not probabilities.');
  }
  if (m.age) fact('Age', `A patient’s age may be told: ten years more make the odds of a melanoma ${Math.exp(m.age.per_decade).toFixed(2)} times as large.`);
  fact('The model', `${m.name} ${m.version}, run “${m.run}”: ${m.arch} at ${m.size} px, ${plural(m.folds?.length ?? 0, 'fold')}, ${plural(m.views ?? 1, 'view')} of each image, ${m.precision}.`);
  const parts = [facts];
  if (training?.sources?.length) {
    const row = (source) => h('tr', {},
      h('th', { scope: 'row' }, source.name), h('td', {}, count(source.n)), h('td', {}, count(source.melanomas)));
    const cell = (text) => h('th', { scope: 'col' }, text);
    parts.unshift(h('table', {},
      h('caption', {}, 'What it was trained on'),
      h('thead', {}, h('tr', {}, cell('Source'), cell('Images'), cell('Melanomas'))),
      h('tbody', {}, ...training.sources.map(row)),
      training.sources.length > 1 ? h('tfoot', {}, row({ name: 'all', n: training.n, melanomas: training.melanomas })) : null));
  }
  parts.reverse();
  $('model-facts').replaceChildren(...parts);
  if (state.items.length && !state.job) draw();
}

function metricWords(m) {
  const words =
    `Shown a melanoma and another lesion, it gives the melanoma the higher score in about ` +
    `${Math.round(m.auroc * 100)} of 100 such pairs ` +
    `(AUROC ${m.auroc.toFixed(3)}, 95 % interval ${m.auroc_low.toFixed(3)} to ${m.auroc_high.toFixed(3)}; ` +
    `${count(m.n)} held-out images, ${count(m.positives)} melanomas).`;
  const flattered =
    m.monitor === 'fold'
      ? ' The number of training rounds was chosen on the same images, which flatters the figure a little.'
      : '';
  return [words + flattered];
}

// ----------------------------------------------------------------

if (history.state?.open) history.replaceState(null, '');
draw();
firstLook();
