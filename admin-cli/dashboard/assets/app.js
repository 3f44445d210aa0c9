// Live updates, filters, dialogs, keys, copying. The server makes all HTML; without this script, pages are snapshots.

const base = document.querySelector('meta[name=base]').content;
const version = new URL(import.meta.url).search;
const { morph } = await import(`./morph.js${version}`);
const dialog = document.getElementById('dialog');
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

document.documentElement.classList.add('scripted');

// Live updates

let paused = false;
let loading = false;
let again = false;
let lastSample = Number($('#status').dataset.taken);
const interval = () => Number(document.body.dataset.interval) || 5000;

async function fetchPage(url) {
  const response = await fetch(url, { headers: { 'X-Fragment': '1', Accept: 'text/html' } });
  const text = await response.text();
  return { response, page: new DOMParser().parseFromString(`<body>${text}</body>`, 'text/html') };
}

/** Replaces what has changed on the page. */
async function refresh() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  const url = location.href;
  try {
    const { page } = await fetchPage(url);
    if (url !== location.href) return;
    for (const id of ['status', 'nav', 'main', 'footer']) {
      const [from, to] = [document.getElementById(id), page.getElementById(id)];
      if (from && to) morph(from, document.importNode(to, true));
    }
    document.title = page.title || document.title;
    lastSample = Number($('#status').dataset.taken);
    decorate();
  } catch {
    // The dashboard restarts: the page turns grey, and the next attempt succeeds.
  } finally {
    loading = false;
    freshness();
    if (again) {
      again = false;
      refresh();
    }
  }
}

function freshness() {
  const status = $('#status');
  const isStale = !paused && lastSample > 0 && Date.now() - lastSample > 3 * interval() + 1000;
  status.classList.toggle('stale', isStale);
  status.classList.toggle('paused', paused);
  document.body.classList.toggle('stale', isStale);
  const button = $('#pause');
  button.setAttribute('aria-pressed', String(paused));
}
setInterval(freshness, 1000);

let polling;
function poll() {
  polling ??= setInterval(() => !paused && !document.hidden && refresh(), interval());
}

function listen() {
  const events = new EventSource(`${base}/api/v2/events`);
  events.addEventListener('sample', (event) => {
    clearInterval(polling);
    polling = undefined;
    const { taken_at_ms: taken } = JSON.parse(event.data);
    if (!paused && !document.hidden && taken !== lastSample) refresh();
  });
  events.onerror = () => {
    poll();
    // The browser connects again by itself, except after an error status.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, interval());
  };
}
listen();
document.addEventListener('visibilitychange', () => !document.hidden && !paused && refresh());

function togglePause() {
  paused = !paused;
  toast(paused ? 'Live updates paused' : 'Live updates resumed');
  if (!paused) refresh();
  freshness();
}

// What the server cannot know: local times, and buttons for copying tables.

function decorate(root = document) {
  for (const time of $$('time[datetime]', root)) {
    const at = new Date(time.getAttribute('datetime'));
    if (!Number.isNaN(at.getTime())) time.title = `${time.getAttribute('datetime')}\n${at.toLocaleString()} local time`;
  }
  for (const scroll of $$('.scroll', root)) {
    if (scroll.nextElementSibling?.classList.contains('tools')) continue;
    const tools = document.createElement('div');
    tools.className = 'tools';
    tools.dataset.own = '';
    tools.append(tool('copy', 'Copy as TSV', 'tsv'), tool('download', 'Download as JSON', 'json'));
    scroll.after(tools);
  }
  markCursor();
}

function tool(shape, title, kind) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'ghost';
  button.title = title;
  button.dataset.export = kind;
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `${base}/static/icons.svg${version}#${shape}`);
  svg.append(use);
  const label = document.createElement('span');
  label.className = 'sr';
  label.textContent = title;
  button.append(svg, label);
  return button;
}

const cellText = (cell) => cell.textContent.replace(/\s+/g, ' ').trim();

function exportTable(button) {
  const table = $('table', button.closest('.tools').previousElementSibling);
  const heads = $$('thead th', table).map(cellText);
  const rows = $$('tbody tr', table).map((row) => [...row.children].map(cellText));
  if (button.dataset.export === 'tsv') {
    copy([heads, ...rows].map((row) => row.join('\t')).join('\n'));
    return;
  }
  const json = rows.map((row) => Object.fromEntries(row.map((text, at) => [heads[at] || `column ${at + 1}`, text])));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(json, null, 2)], { type: 'application/json' }));
  link.download = `${table.dataset.table || 'table'}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, browsers only copy what is selected.
    const area = document.createElement('textarea');
    area.value = text;
    (dialog.open ? dialog : document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  toast('Copied');
}

let toastTimer;
function toast(text) {
  const element = $('#toast');
  element.textContent = text;
  element.classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove('shown'), 2500);
}

// Filters

let filterTimer;
document.addEventListener('input', (event) => {
  if (event.target.matches('[data-filter]')) {
    clearTimeout(filterTimer);
    filterTimer = setTimeout(() => applyFilter(event.target.form), event.target.matches('select') ? 0 : 200);
  }
  if (event.target.matches('[data-expect]')) checkConfirmation(event.target.form);
  if (event.target.matches('[data-seek]')) seek(event.target);
  if (event.target.matches('[data-with-channels]')) {
    const lost = $('[data-lost]', event.target.form);
    if (lost) lost.textContent = Number(event.target.checked ? lost.dataset.lost : lost.dataset.lostInTopic).toLocaleString('en-US');
  }
});

function applyFilter(form) {
  const url = new URL(location.href);
  url.search = '';
  for (const [name, value] of new FormData(form)) if (value) url.searchParams.set(name, value);
  history.replaceState(null, '', url);
  refresh();
}

document.addEventListener('submit', (event) => {
  const form = event.target;
  if (form.matches('#filter')) {
    event.preventDefault();
    applyFilter(form);
  } else if (form.matches('[data-order]')) {
    event.preventDefault();
    submitOrder(form);
  }
});

// Dialogs

async function openDialog(url) {
  const { page } = await fetchPage(url);
  show(page);
}

function show(page) {
  const content = page.getElementById('main') ?? page.body;
  for (const banner of $$(':scope > .banner', content)) banner.remove();
  dialog.replaceChildren(...[...content.childNodes].map((node) => document.importNode(node, true)));
  decorate(dialog);
  if (!dialog.open) dialog.showModal();
  const form = $('[data-order]', dialog);
  if (form) checkConfirmation(form);
  ($('[autofocus], .confirm input, select, [data-submit], button', dialog) ?? dialog).focus();
}

function checkConfirmation(form) {
  const confirm = $('[data-expect]', form);
  const submit = $('[data-submit]', form);
  if (submit) submit.disabled = Boolean(confirm) && confirm.value !== confirm.dataset.expect;
}

function orderOf(form) {
  const order = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === 'checkbox') order[field.name] = field.checked;
    else if ('list' in field.dataset) (order[field.name] ??= []).push(field.value);
    else if ('number' in field.dataset) order[field.name] = Number(field.value) || 0;
    else if (field.value) order[field.name] = field.value;
  }
  return order;
}

const post = (path, order) =>
  fetch(`${base}${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Requested-With': 'nsqadmin', 'X-Fragment': '1', Accept: 'text/html' },
    body: JSON.stringify(order),
  });

async function submitOrder(form) {
  const submit = $('[data-submit]', form);
  submit.disabled = true;
  try {
    const response = await post('/act', orderOf(form));
    show(new DOMParser().parseFromString(`<body>${await response.text()}</body>`, 'text/html'));
  } catch (error) {
    submit.disabled = false;
    toast(`The dashboard does not answer: ${error.message}`);
  }
}

/** Asks what an order would do. Nothing is changed. */
async function preview(form) {
  const output = $('[data-preview-result]', form);
  output.textContent = '…';
  const response = await post('/api/v2/actions', { ...orderOf(form), dry_run: true });
  const answer = await response.json();
  const text = (outcome) => `${outcome.node}: ${outcome.ok ? outcome.detail ?? 'possible' : outcome.error}`;
  output.textContent = answer.outcomes ? answer.outcomes.map(text).join('; ') || 'no node has it' : answer.message;
}

let seekTimer;
/** The slider covers a week; its steps grow, so that the last hours are fine. */
function seek(slider) {
  const minutes = Math.round((Number(slider.value) / 1000) ** 3 * 7 * 24 * 60);
  const to = $('[data-to]', slider.form);
  to.value = minutes ? `${minutes}m` : 'latest';
  const at = new Date(Date.now() - minutes * 60000);
  $('[data-seek-result]', slider.form).textContent = minutes ? `${at.toLocaleString()} (${minutes} min ago)` : 'now';
  clearTimeout(seekTimer);
  seekTimer = setTimeout(() => preview(slider.form), 300);
}

function closeDialog() {
  dialog.close();
  dialog.replaceChildren();
  refresh();
}
dialog.addEventListener('cancel', () => refresh());

document.addEventListener('click', (event) => {
  const target = event.target.closest('a, button');
  if (!target) {
    if (event.target === dialog) closeDialog();
    return;
  }
  if (target.matches('[data-act]') && !event.metaKey && !event.ctrlKey) {
    event.preventDefault();
    openDialog(target.href);
  } else if (target.matches('[data-close]')) {
    if (dialog.open) closeDialog();
    else history.back();
  } else if (target.matches('[data-preview]')) preview(target.form);
  else if (target.matches('[data-copy]')) copy(target.dataset.copy);
  else if (target.matches('[data-copy-url]')) copy(location.href);
  else if (target.matches('[data-export]')) exportTable(target);
  else if (target.closest('#pause')) togglePause();
});

// Keys

let cursor = -1;
const rows = () => $$('main table tbody tr').filter((row) => $('th a', row));
function markCursor() {
  rows().forEach((row, at) => row.classList.toggle('cursor', at === cursor));
}
function move(by) {
  const all = rows();
  if (!all.length) return;
  cursor = Math.max(0, Math.min(all.length - 1, cursor + by));
  markCursor();
  all[cursor].scrollIntoView({ block: 'nearest' });
}

const KEYS = [
  ['j, k', 'next and previous row'],
  ['Enter', 'open the row'],
  ['/', 'filter'],
  ['g o, g t, g n, g c, g d, g a', 'overview, topics, nodes, clients, discovery, audit'],
  ['p', 'pause or resume live updates'],
  ['?', 'this list'],
  ['Esc', 'close'],
];
function help() {
  const title = document.createElement('h2');
  title.textContent = 'Keys';
  const table = document.createElement('table');
  table.className = 'keys-table';
  for (const [key, what] of KEYS) {
    const row = table.insertRow();
    row.insertCell().append(Object.assign(document.createElement('kbd'), { textContent: key }));
    row.insertCell().textContent = what;
  }
  const close = Object.assign(document.createElement('button'), { className: 'button', type: 'button', textContent: 'Close' });
  close.dataset.close = '';
  const buttons = Object.assign(document.createElement('p'), { className: 'buttons' });
  buttons.append(close);
  dialog.replaceChildren(title, table, buttons);
  if (!dialog.open) dialog.showModal();
}

let prefix = false;
const PLACES = { o: '/', t: '/topics', n: '/nodes', c: '/clients', d: '/lookup', a: '/audit' };
document.addEventListener('keydown', (event) => {
  if (event.target.matches('input, select, textarea') || event.metaKey || event.ctrlKey || event.altKey || dialog.open) return;
  const key = event.key;
  if (prefix && PLACES[key]) location.href = base + PLACES[key];
  else if (key === 'j') move(1);
  else if (key === 'k') move(-1);
  else if (key === 'Enter' && cursor >= 0 && event.target === document.body) $('th a', rows()[cursor])?.click();
  else if (key === '/') $('[data-filter]')?.focus();
  else if (key === 'p') togglePause();
  else if (key === '?') help();
  else if (key !== 'g') return;
  if (key !== 'g') event.preventDefault();
  prefix = key === 'g';
});

// The counter page counts on between two samples.
const reduced = matchMedia('(prefers-reduced-motion: reduce)').matches;
if (!reduced) {
  setInterval(() => {
    for (const element of $$('[data-counter]')) {
      const seconds = Math.min((Date.now() - lastSample) / 1000, interval() / 1000);
      const value = Math.floor(Number(element.dataset.counter) + Number(element.dataset.rate) * seconds);
      element.textContent = value.toLocaleString('en-US');
    }
  }, 250);
}

decorate();
freshness();
