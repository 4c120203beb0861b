// What the node says of itself, once a second, from /metrics, /health/ready and /status.
'use strict';

const KEPT = 120;

// Every sample of a scrape by its name and labels, as they stand there.
function samples(text) {
  const found = new Map();
  for (const line of text.split('\n')) {
    const end = line.lastIndexOf(' ');
    if (end > 0 && line[0] !== '#') found.set(line.slice(0, end), Number(line.slice(end + 1)));
  }
  return found;
}

// The sum of a metric's series, or of those that have this label.
function total(scrape, name, label = '') {
  let sum = 0;
  for (const [key, value] of scrape) {
    const is = key === name || (key.startsWith(name + '{') && key.includes(label));
    if (is) sum += value;
  }
  return sum;
}

// Below how many seconds this part of what happened between two scrapes stayed; nothing happened: null.
function quantile(now, before, name, part) {
  const counts = new Map();
  for (const [key, value] of now) {
    const bound = key.startsWith(name + '_bucket{') && /le="([^"]+)"/.exec(key);
    if (!bound) continue;
    const le = bound[1] === '+Inf' ? Infinity : Number(bound[1]);
    counts.set(le, (counts.get(le) || 0) + value - (before.get(key) || 0));
  }
  const buckets = [...counts].sort((a, b) => a[0] - b[0]);
  const all = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (all <= 0) return null;
  let [from, below] = [0, 0];
  for (const [le, count] of buckets) {
    if (count >= all * part) {
      if (le === Infinity) return from;
      return from + (le - from) * (all * part - below) / Math.max(count - below, 1);
    }
    [from, below] = [le, count];
  }
  return from;
}

const number = (value) => value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 });
const seconds = (value) => value === null ? '–' : value < 0.1 ? `${number(value * 1000)} ms` : `${number(value)} s`;
const bytes = (value) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${number(value)} ${units[unit]}`;
};

const gauge = (name, label) => ({ now }) => total(now, `taskflow_${name}`, label);
const rate = (name, label) => ({ now, before, passed }) => (total(now, `taskflow_${name}`, label) - total(before, `taskflow_${name}`, label)) / passed;
const p99 = (name) => ({ now, before }) => quantile(now, before, `taskflow_${name}_seconds`, 0.99);
const own = (name) => ({ now }) => total(now, name);

// Name, figure, how it is written, and from when on it is worth a look. A group with a gauge behind it is shown where that is not 0.
const GROUPS = [
  ['Who is here', [
    ['WebSockets', gauge('connections', 'kind="websocket"'), number],
    ['Streams and long-polls', gauge('connections', 'kind="request"'), number],
    ['Feeds followed', gauge('feeds_followed'), number],
    ['Feeds in memory', gauge('feeds_running'), number],
    ['Handshakes a second', rate('handshakes_total'), number],
    ['Cut a second', rate('evictions_total'), number, (value) => value > 1],
  ]],
  ['What they do', [
    ['Operations a second', rate('operations_total', 'outcome="accepted"'), number],
    ['Not done a second', ({ now, before, passed }) => rate('operations_total')({ now, before, passed }) - rate('operations_total', 'outcome="accepted"')({ now, before, passed }), number],
    ['Requests a second', rate('http_requests_total'), number],
    ['Failed a second (5xx)', rate('http_requests_total', 'class="5xx"'), number, (value) => value > 0],
    ['Pushes a second', rate('pushes_total'), number],
    ['Limited a second', rate('limited_total'), number],
  ]],
  ['How long it takes (p99)', [
    ['Operation', p99('operation_duration'), seconds, (value) => value > 0.25],
    ['Push', p99('push_duration'), seconds, (value) => value > 0.25],
    ['Append', p99('append_duration'), seconds, (value) => value > 0.25],
    ['fsync', p99('fsync_duration'), seconds, (value) => value > 0.1],
    ['Request', p99('http_request_duration'), seconds],
    ['Thread is late', p99('thread_delay_duration'), seconds, (value) => value > 0.1],
  ]],
  ['What could be full', [
    ['Overload, 0 to 3', gauge('overload'), number, (value) => value > 0],
    ['Waits for slow clients', gauge('queue_bytes'), bytes],
    ['Passwords that wait', gauge('passwords_waiting'), number, (value) => value > 32],
    ['Snapshots under way', gauge('snapshots_running'), number, (value) => value >= 8],
    ['Memory', own('process_resident_memory_bytes'), bytes, (value, { now }) => value > 0.8 * total(now, 'taskflow_memory_bytes_max')],
    ['Cores in use', ({ now, before, passed }) => (own('process_cpu_seconds_total')({ now }) - own('process_cpu_seconds_total')({ now: before })) / passed, number],
    ['Files open', own('process_open_fds'), number, (value, { now }) => value > 0.8 * total(now, 'process_max_fds')],
  ]],
  ['The embedded store', [
    ['Its files', gauge('store_bytes'), bytes],
    ['Write-ahead log', gauge('store_wal_bytes'), bytes],
    ['Not in its place yet', gauge('store_tail_bytes'), bytes],
    ['Disk free', gauge('store_bytes_free'), bytes, (value) => value < 5e8],
  ], 'store_bytes'],
  ['The cluster', [
    ['Nodes', gauge('cluster_members'), number],
    ['Bus is up', gauge('bus_up'), number, (value) => value < 1],
    ['Bus, p99', p99('bus_lag_duration'), seconds, (value) => value > 0.25],
    ['Messages a second', rate('bus_sent_total'), number],
    ['Screens may be old', gauge('stale'), number, (value) => value > 0],
    ['Conflicts a second', rate('append_conflicts_total'), number, (value) => value > 1],
  ], 'bus_configured'],
];

const tiles = [];

function element(name, attributes, ...children) {
  const isLine = name === 'svg' || name === 'polyline';
  const made = isLine ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function build(now) {
  for (const [title, figures, only] of GROUPS) {
    if (only && !total(now, `taskflow_${only}`)) continue;
    const list = element('ul', { class: 'tiles' });
    for (const [name, read, write, isBad] of figures) {
      const value = element('div', { class: 'value' }, '–');
      const line = element('polyline', {});
      const picture = element('svg', { viewBox: `0 0 ${KEPT - 1} 28`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, line);
      const tile = element('li', { class: 'tile' }, element('div', { class: 'name' }, name), value, picture);
      list.append(tile);
      tiles.push({ read, write, isBad, tile, value, line, past: [] });
    }
    document.getElementById('groups').append(element('section', {}, element('h2', {}, title), list));
  }
}

function draw(past) {
  const most = Math.max(...past.map((value) => value || 0), Number.MIN_VALUE);
  const first = KEPT - past.length;
  return past.map((value, index) => `${first + index},${(27 - 26 * (value || 0) / most).toFixed(1)}`).join(' ');
}

function say(text, isBad) {
  const state = document.getElementById('state');
  state.textContent = text;
  state.classList.toggle('bad', isBad);
}

const share = (value) => value === 0 ? 'none' : `${number(100 * value)} %`;

// Title; what is said while there is nothing in it; its rows; its columns: name, what of a row, and whether it is a number.
const LISTS = [
  ['The nodes, as this one sees them', null, (status) => status.nodes, [
    ['Node', (node) => node.is_this ? `${node.name} (this one)` : node.name],
    ['State', (node) => node.leaving ? 'going' : 'there'],
    ['Hosts of all feeds', (node) => node.hosts_feeds ? share(node.share) : 'no feeds (roles)', true],
    ['Heard', (node) => node.heard_ms_ago === null ? '–' : `${seconds(node.heard_ms_ago / 1000)} ago`, true],
  ]],
  ['The slowest connections', 'Nobody is behind.', (status) => status.slowest, [
    ['User', (slow) => slow.user],
    ['Waits for it', (slow) => bytes(slow.bytes), true],
    ['Has been behind for', (slow) => seconds(slow.behind_ms / 1000), true],
  ]],
  ['The feeds with the longest queues', 'No operation waits.', (status) => status.feeds, [
    ['User', (feed) => feed.user],
    ['Operations that wait', (feed) => number(feed.operations), true],
  ]],
];

function table(columns, rows) {
  const cell = (kind, text, isNumber) => element(kind, isNumber ? { class: 'number' } : {}, text);
  const head = element('tr', {}, ...columns.map(([name, , isNumber]) => cell('th', name, isNumber)));
  const body = rows.map((row) => element('tr', {}, ...columns.map(([, read, isNumber]) => cell('td', read(row), isNumber))));
  return element('div', { class: 'wide' }, element('table', {}, element('thead', {}, head), element('tbody', {}, ...body)));
}

function list(status) {
  const sections = [];
  for (const [title, nothing, read, columns] of LISTS) {
    const rows = read(status);
    if (!rows.length && nothing === null) continue;
    sections.push(element('section', {}, element('h2', {}, title), rows.length ? table(columns, rows) : element('p', {}, nothing)));
  }
  if (status.workers_silent) {
    sections.push(element('p', { class: 'bad' }, `${status.workers_silent} of the workers did not say in time who is behind: they are busy.`));
  }
  document.getElementById('name').textContent = status.node;
  document.getElementById('lists').replaceChildren(...sections);
}

let last = null;

async function look() {
  const [scrape, health, status] = await Promise.all(['/metrics', '/health/ready', '/status'].map((path) => fetch(path)));
  const [now, ready] = [samples(await scrape.text()), await health.json()];
  if (status.ok) list(await status.json());
  const at = performance.now();
  if (!tiles.length) build(now);
  const isDraining = total(now, 'taskflow_draining') > 0;
  const word = { ok: 'ready', degraded: 'ready, but', unavailable: isDraining ? 'going' : 'not ready' }[ready.status];
  say(ready.reason ? `${word}: ${ready.reason}` : word, ready.status !== 'ok');
  if (last) {
    const seen = { now, before: last.now, passed: (at - last.at) / 1000 };
    for (const tile of tiles) {
      const value = tile.read(seen);
      tile.past.push(value);
      if (tile.past.length > KEPT) tile.past.shift();
      tile.value.textContent = value === null ? '–' : tile.write(value);
      tile.tile.classList.toggle('bad', value !== null && Boolean(tile.isBad && tile.isBad(value, seen)));
      tile.line.setAttribute('points', draw(tile.past));
    }
  }
  last = { now, at };
}

async function goOn() {
  try {
    await look();
  } catch {
    say('does not answer', true);
    last = null;
  }
  setTimeout(goOn, 1000);
}

goOn();
