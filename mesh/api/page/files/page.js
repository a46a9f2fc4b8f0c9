// How the page is drawn.
//
//   look    every two seconds while the page is seen: GET view.json ─► show
//   show    ─► banner, warnings, graph, the chosen host, tables; each part is made anew only
//             when what it shows is another than before, so that nothing jumps or loses focus
//   layout  where hosts are drawn: a start by the hash of their names, then springs; from
//             where they are when hosts or links come and go
//
// Whatever came over the network is put in as text, by textContent, or as the value of an
// attribute whose name stands here. Nothing is ever read as HTML.
'use strict';

const LOOK_EVERY = 2000; // milliseconds
const PATIENCE = 9000;   // for an answer
const ROWS = 300;        // of a table at once
const ROOM = 84;         // pixels between hosts for a figure at their link
const CROWD = 60;        // from so many hosts on only some are labelled
const SVG = 'http://www.w3.org/2000/svg';

const $ = (id) => document.getElementById(id);
const calm = matchMedia('(prefers-reduced-motion: reduce)');

// make is an element with attributes and, as text or elements, what is in it.
function make(tag, attributes, ...inside) {
  return fill(document.createElement(tag), attributes, inside);
}

function draw(tag, attributes, ...inside) {
  return fill(document.createElementNS(SVG, tag), attributes, inside);
}

function fill(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, String(value));
  element.append(...inside.map((part) => (part instanceof Node ? part : document.createTextNode(String(part)))));
  return element;
}

// setText changes a text only when it is another one: what is marked stays marked.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// changed reports whether what a part shows is another than when it was asked last.
const shown = new Map();
function changed(part, what) {
  const text = JSON.stringify(what);
  if (shown.get(part) === text) return false;
  shown.set(part, text);
  return true;
}

// ---- Words and figures ----

const short = (text, most) => (text.length > most ? text.slice(0, most - 1) + '…' : text);
const count = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;
const millis = (micros) => {
  const ms = micros / 1000;
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
};
const percent = (part) => (part > 0 && part < 0.001 ? '<0.1 %' : `${(100 * part).toFixed(part < 0.1 && part > 0 ? 1 : 0)} %`);

function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let at = 0;
  for (; n >= 1000 && at < units.length - 1; at++) n /= 1000;
  return `${at === 0 ? n : n.toFixed(1)} ${units[at]}`;
}

function duration(seconds) {
  const d = Math.floor(seconds / 86400), h = Math.floor(seconds / 3600) % 24, m = Math.floor(seconds / 60) % 60;
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min` : `${seconds} s`;
}

// addressesOf are an endpoint's, with a length only where one is known.
const addressesOf = (endpoint) => endpoint.addresses.map((a) => a.replace(/(^[^:]*)\/32$|\/128$/, '$1'));

// kindOf is how a host stands to this one.
function kindOf(host) {
  if (host.self) return 'self';
  if (!host.reachable) return 'gone';
  return host.via ? 'far' : 'near';
}

function standing(host) {
  switch (kindOf(host)) {
    case 'self': return 'this host';
    case 'gone': return host.alive ? 'not reachable from here' : 'gone: no host has a link with it';
    case 'far': return `reached over ${nick(host.via)}`;
  }
  return 'reached directly';
}

// nick is the nickname of the host with a name.
let byName = new Map();
function nick(name) {
  const host = byName.get(name);
  return (host && host.nickname) || name;
}

function lineClass(link) {
  const own = link.own ? ' own' : '';
  switch (link.state) {
    case 'up': return `line ${link.path === 'tcp' ? 'tcp' : 'udp'}${own}`;
    case 'direct': return 'line direct';
    case 'connecting': return `line wait${own}`;
    case 'old': return 'line old';
  }
  return `line down${own}`;
}

function linkWords(link) {
  switch (link.state) {
    case 'up': return link.path === 'tcp' ? 'TCP' : 'UDP';
    case 'direct': return 'direct UDP path, no link';
    case 'connecting': return 'connecting';
    case 'old': return 'as told last';
    case 'half': return `only ${nick(link.from)} tells of it`;
  }
  return 'down';
}

// figures are what is known of a link's quality; empty where nothing is.
function figures(link) {
  if (link.state !== 'up') return '';
  const parts = [];
  if (link.rtt_us) parts.push(millis(link.rtt_us));
  if (link.loss >= 0.005) parts.push(`${percent(link.loss)} lost`);
  return parts.join(', ');
}

// ---- Asking ----

let timer = 0, asking = false, last = null;

async function look() {
  clearTimeout(timer);
  if (document.visibilityState === 'hidden' || asking) return; // visibilitychange asks again
  asking = true;
  try {
    const answer = await fetch('view.json', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`HTTP status ${answer.status}`);
    const view = await answer.json();
    if (view.problem) {
      lost('The daemon does not answer.', 'The page goes on by itself when it does again; `ripstop up` starts one.\nWhat it came to: ' + view.problem);
    } else {
      show(view);
    }
  } catch (error) {
    lost('`ripstop web` does not answer.', 'If it was ended, start it again and open the URL that it prints: it has a new key.\nWhat it came to: ' + error.message);
  }
  asking = false;
  timer = setTimeout(look, LOOK_EVERY);
}

document.addEventListener('visibilitychange', look);

// lost says that there is nothing new; what was seen last stays, dimmed.
function lost(head, text) {
  const stays = last ? ' What is below is what was seen last.' : '';
  setText($('problem'), `${head}${stays}\n${text}`);
  $('problem').hidden = false;
  $('main').classList.add('old');
  $('state').className = 'lost';
  setText($('state'), 'no answer');
}

// ---- Showing ----

let chosen = ''; // name of the host that was chosen; empty: this one

function show(view) {
  last = view;
  byName = new Map(view.hosts.map((host) => [host.name, host]));
  if (!byName.has(chosen)) chosen = '';
  $('problem').hidden = true;
  $('main').hidden = false;
  $('main').classList.remove('old');
  $('state').className = 'live';
  setText($('state'), 'live');

  const self = view.hosts.find((host) => host.self);
  setText($('here'), self.nickname);
  document.title = `${self.nickname} – ripstop`;
  const reachable = view.hosts.filter((host) => host.reachable).length;
  setText($('summary'), `${count(view.hosts.length + (view.left_out.hosts || 0), 'host')}, ${reachable} reachable · ${count(view.endpoints.length + (view.left_out.endpoints || 0), 'endpoint')} · network ${view.network.slice(0, 8)}${view.cipher === 'none' ? ', not encrypted' : ''}`);
  showWarnings(view);
  showGraph(view);
  showChosen(view);
  showHosts(view);
  showEndpoints(view);
  showAddresses(view);
  showNames(view);
}

function showWarnings(view) {
  if (!changed('warnings', view.warnings)) return;
  const more = view.left_out.warnings ? [`${count(view.left_out.warnings, 'further one')}: ripstop status has them all.`] : [];
  $('warnings').replaceChildren(...[...view.warnings, ...more].map((text) => make('li', {}, text)));
  $('warnings').hidden = view.warnings.length === 0;
}

function choose(name) {
  chosen = name;
  if (!last) return;
  showGraph(last);
  showChosen(last);
  showHosts(last);
}

const isChosen = (host) => (chosen ? host.name === chosen : Boolean(host.self));

// ---- The chosen host ----

function showChosen(view) {
  const host = view.hosts.find(isChosen);
  setText($('chosen-head'), host.nickname || host.name);
  const facts = [['State', standing(host)]];
  const fact = (name, value) => { if (value) facts.push([name, value]); };
  fact('Name', host.name);
  fact('Path', { udp: 'UDP', tcp: 'TCP', relay: 'relayed' }[host.path]);
  fact('Hops', host.hops);
  fact('Via', host.via && nick(host.via));
  fact('Cost', host.cost_us && millis(host.cost_us));
  if (!host.self && host.reachable) fact('Session', host.session || 'none yet: the first frame makes one');
  fact('Overlay', (host.overlay || []).join('\n'));
  fact('Underlay', (host.underlay || []).join('\n'));
  fact('Mode', host.mode && host.mode + (host.bridge ? `, bridge ${host.bridge}` : ''));
  fact('MTU', host.mtu);
  fact('Runs', host.software && `ripstop ${host.software}`);
  fact('Up for', host.uptime_seconds && duration(host.uptime_seconds));
  if (!host.self) {
    fact('Sent', `${count(host.frames_out, 'frame')}, ${bytes(host.bytes_out)}`);
    fact('Received', `${count(host.frames_in, 'frame')}, ${bytes(host.bytes_in)}`);
  }
  if (changed('fact names', facts.map(([name]) => name))) {
    $('facts').replaceChildren(...facts.flatMap(([name]) => [make('dt', {}, name), make('dd')]));
  }
  facts.forEach(([, value], i) => setText($('facts').children[2 * i + 1], String(value)));

  const links = view.links.filter((link) => link.from === host.name || link.to === host.name).map((link) => {
    const figure = figures(link);
    return `${nick(link.from === host.name ? link.to : link.from)}: ${linkWords(link)}${figure && ', ' + figure}`;
  });
  const endpoints = view.endpoints.filter((e) => e.host === host.name).map((e) => `${e.name || e.mac}: ${addressesOf(e).join(', ') || 'no address'}`);
  if (changed('parts', [links, endpoints])) {
    $('parts').replaceChildren(...part('Links', links), ...part('Endpoints', endpoints));
  }
}

function part(head, lines) {
  const most = 8;
  if (!lines.length) return [make('h3', {}, head), make('p', { class: 'quiet' }, 'none')];
  const items = lines.slice(0, most).map((line) => make('li', {}, line));
  if (lines.length > most) items.push(make('li', { class: 'quiet' }, `and ${lines.length - most} more`));
  return [make('h3', {}, head), make('ul', {}, ...items)];
}

// ---- Tables ----

// A table has columns of [head, text of a row, class of a cell]. It makes the section's content
// once; a search field narrows the rows.
class Table {
  constructor(section, head, columns, search) {
    this.section = section;
    this.columns = columns;
    this.body = make('tbody');
    this.small = make('small');
    this.note = make('p', { class: 'quiet', hidden: '' });
    const title = make('div', { class: 'tablehead' }, make('h2', {}, head + ' ', this.small));
    if (search) {
      this.search = make('input', { type: 'search', placeholder: search, 'aria-label': search, autocomplete: 'off', spellcheck: 'false', maxlength: 100 });
      this.search.addEventListener('input', () => this.render());
      title.append(this.search);
    }
    const heads = make('tr', {}, ...columns.map(([name]) => make('th', { scope: 'col' }, name)));
    section.append(title, make('div', { class: 'scroll' }, make('table', {}, make('thead', {}, heads), this.body)), this.note);
  }

  // set takes the rows, of which more were left out by the server; empty is said when there are none.
  set(rows, leftOut, empty) {
    this.rows = rows;
    this.leftOut = leftOut || 0;
    this.empty = empty;
    this.render();
  }

  render() {
    const wanted = this.search ? this.search.value.trim().toLowerCase() : '';
    const texts = this.rows.map((row) => this.columns.map(([, text]) => text(row)));
    const found = [];
    texts.forEach((cells, i) => {
      if (cells.join('\n').toLowerCase().includes(wanted)) found.push(i);
    });
    const all = this.rows.length + this.leftOut;
    setText(this.small, wanted ? `${found.length} of ${all.toLocaleString('en')}` : all.toLocaleString('en'));
    const visible = found.slice(0, ROWS);
    const notes = [];
    if (!this.rows.length) notes.push(this.empty);
    else if (!found.length) notes.push('Nothing here has that in it.');
    if (found.length > ROWS) notes.push(`${count(found.length - ROWS, 'further row')}: search for what you look for.`);
    if (this.leftOut) notes.push(`${this.leftOut.toLocaleString('en')} are not shown at all: ask ripstop status.`);
    setText(this.note, notes.join(' '));
    this.note.hidden = !notes.length;
    if (!changed(this.section.id, visible.map((i) => [texts[i], this.marks(this.rows[i])]))) return;
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.host : '';
    this.body.replaceChildren(...visible.map((i) => this.row(this.rows[i], texts[i])));
    if (focused) for (const button of this.body.querySelectorAll('button')) if (button.dataset.host === focused) button.focus();
  }

  marks(row) { return this.columns.map(([, , look]) => (look ? look(row) : '')); }

  row(row, texts) {
    return make('tr', {}, ...this.columns.map(([name, , look], i) => {
      const cell = make('td', { 'data-label': name }, texts[i]);
      if (look && look(row)) cell.className = look(row);
      return cell;
    }));
  }
}

// HostTable lets a host be chosen by its first cell.
class HostTable extends Table {
  marks(row) { return [super.marks(row), isChosen(row)]; }

  row(row, texts) {
    const line = super.row(row, texts);
    const button = make('button', { type: 'button', 'data-host': row.name, 'aria-pressed': isChosen(row) }, texts[0]);
    button.addEventListener('click', () => choose(row.name));
    line.firstChild.replaceChildren(button);
    if (isChosen(row)) line.className = 'picked';
    return line;
  }
}

let tables = null;

function makeTables() {
  return {
    hosts: new HostTable($('hosts'), 'Hosts', [
      ['Host', (h) => h.nickname || h.name],
      ['State', standing, (h) => (h.reachable ? '' : 'bad')],
      ['Path', (h) => ({ udp: 'UDP', tcp: 'TCP', relay: 'relayed' }[h.path] || '')],
      ['Hops', (h) => (h.hops ? String(h.hops) : '')],
      ['Cost', (h) => (h.cost_us ? millis(h.cost_us) : '')],
      ['Session', (h) => (h.reachable && h.session) || ''],
      ['Version', (h) => h.software || ''],
    ]),
    endpoints: new Table($('endpoints'), 'Endpoints', [
      ['Name', (e) => [e.name || '', ...(e.aliases || [])].join('\n')],
      ['Addresses', (e) => addressesOf(e).join('\n')],
      ['MAC', (e) => e.mac],
      ['Host', (e) => e.host_nickname || e.host],
      ['State', (e) => ({ fenced: 'fenced: another host has its address', orphan: 'orphan: its host or port is gone' }[e.state] || e.state), (e) => (e.state === 'fenced' || e.state === 'orphan' ? 'bad' : '')],
    ], 'Search name, address, MAC, host'),
    names: new Table($('names'), 'Names', [
      ['Name', (n) => n.name],
      ['Kind', (n) => n.kind],
      ['Leads to', (n) => (n.port ? `${n.target || ''} port ${n.port}` : n.addresses.join('\n'))],
      ['Said by', (n) => n.host_nickname || n.host],
    ], 'Search name, address, host'),
  };
}

function showHosts(view) {
  tables ??= makeTables();
  const order = { self: 0, near: 1, far: 2, gone: 3 };
  const rows = [...view.hosts].sort((a, b) => order[kindOf(a)] - order[kindOf(b)] || a.nickname.localeCompare(b.nickname, 'en', { numeric: true }));
  tables.hosts.set(rows, view.left_out.hosts, '');
}

function showEndpoints(view) {
  tables.endpoints.set(view.endpoints, view.left_out.endpoints, 'Nothing is attached yet: `ripstop attach` does that.');
}

function showNames(view) {
  const dns = view.dns;
  tables.names.set(dns.names, view.left_out.names, dns.problem || 'There are no names yet: `ripstop attach --name` gives one.');
  const domain = dns.domain ? `below ${dns.domain}` : '';
  const problem = dns.names.length ? dns.problem || '' : '';
  if (!tables.domain) {
    tables.domain = make('p', { class: 'quiet' });
    $('names').append(tables.domain);
  }
  setText(tables.domain, [domain, problem].filter(Boolean).join(' · '));
}

// ---- Addresses ----

function showAddresses(view) {
  const ipam = view.ipam;
  $('addresses').hidden = !ipam || !ipam.size;
  if ($('addresses').hidden || !changed('addresses', [ipam, view.left_out.shares])) return;
  const parts = [ipam.range + (ipam.range6 ? `, beside it ${ipam.range6}` : ''), `${count(ipam.used, 'address').replace(/addresss$/, 'addresses')} in use here`];
  if (ipam.fenced) parts.push(`${ipam.fenced} fenced`);
  if (ipam.waiting) parts.push(ipam.waiting);
  setText($('range'), parts.join(' · '));

  const hosts = ipam.hosts, whole = 1000;
  $('shares').setAttribute('viewBox', `0 0 ${whole} 14`);
  $('shares').setAttribute('preserveAspectRatio', 'none');
  let at = 0;
  $('shares').replaceChildren(...hosts.map((host, i) => {
    const wide = (whole * host.addresses) / ipam.size;
    const rect = draw('rect', { class: shareClass(i), x: at, y: 0, width: Math.max(0, wide - 1.5), height: 14 }, draw('title', {}, `${host.nickname || host.host}: ${percent(host.addresses / ipam.size)}`));
    at += wide;
    return rect;
  }));
  const columns = ['Host', 'Share of the range', 'Addresses', 'Given out'];
  const rows = hosts.map((host, i) => {
    const swatch = draw('svg', { class: 'swatch', viewBox: '0 0 12 12', 'aria-hidden': 'true' }, draw('rect', { class: shareClass(i), width: 12, height: 12, rx: 3 }));
    const given = Math.max(0, host.addresses - host.free);
    const cells = [make('span', {}, swatch, host.nickname || host.host), percent(host.addresses / ipam.size), host.addresses.toLocaleString('en'),
      `${given.toLocaleString('en')}${host.reachable ? '' : ', as it said last'}`];
    return make('tr', {}, ...cells.map((cell, k) => make('td', { 'data-label': columns[k] }, cell)));
  });
  const content = [make('div', { class: 'scroll' }, make('table', {},
    make('thead', {}, make('tr', {}, ...columns.map((name) => make('th', { scope: 'col' }, name)))), make('tbody', {}, ...rows)))];
  if (!rows.length) content.splice(0, 1, make('p', { class: 'quiet' }, 'The range is not divided yet.'));
  if (view.left_out.shares) content.push(make('p', { class: 'quiet' }, `${view.left_out.shares} further hosts are not shown.`));
  $('shares-table').replaceChildren(...content);
}

const shareClass = (i) => `share-${i % 6}`;

// ---- The graph ----

// layout places hosts: `at` has their places, around the origin, 100 units a link or so.
const layout = { at: new Map(), of: '' };
const REACH = 100;

// hash is FNV-1a of a name's characters, with its bits mixed once more.
function hash(name) {
  let h = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

// arrange moves hosts until links are about equally long and hosts apart; wide is how much
// wider than high the picture is. It reports whether anything was to be moved.
function arrange(names, pairs, wide) {
  const of = JSON.stringify([names, pairs]);
  if (layout.of === of) return false;
  const n = names.length, known = layout.at, index = new Map(names.map((name, i) => [name, i]));
  const edges = pairs.map(([a, b]) => [index.get(a), index.get(b)]);
  const near = new Map();
  for (const [a, b] of pairs) {
    if (known.has(a)) near.set(b, known.get(a));
    if (known.has(b)) near.set(a, known.get(b));
  }
  const spread = (REACH / 2) * Math.sqrt(n);
  const points = names.map((name) => {
    if (known.has(name)) return { ...known.get(name) };
    const h = hash(name), turn = ((h & 0xffff) / 0x10000) * 2 * Math.PI, far = 0.3 + (0.7 * (h >>> 16)) / 0x10000;
    const from = near.get(name), away = from ? REACH : spread * far;
    return { x: (from ? from.x : 0) + away * Math.cos(turn), y: (from ? from.y : 0) + away * Math.sin(turn) };
  });
  // Who has a place keeps about to it: together these steps are less than half a link long.
  const old = names.map((name) => known.has(name)), again = old.includes(true);
  const rounds = again ? 60 : Math.round(Math.min(500, Math.max(60, 3e7 / (n * n))));
  for (let round = 0; round < rounds; round++) {
    const cool = 1 - round / rounds;
    relax(points, edges, wide, old.map((was) => (was ? 1.5 * cool : (again ? REACH / 3 : spread) * cool + 0.5)));
  }
  layout.at = new Map(names.map((name, i) => [name, points[i]]));
  layout.of = of;
  return true;
}

// relax moves each point once, each by its most at most: apart from all others, along its links, and
// gently to the middle.
function relax(points, edges, wide, most) {
  const push = points.map(() => ({ x: 0, y: 0 }));
  for (let i = 0; i < points.length; i++) {
    for (let j = i + 1; j < points.length; j++) {
      const x = points[i].x - points[j].x || 0.01 * (i - j), y = points[i].y - points[j].y;
      const f = (REACH * REACH) / Math.max(1, x * x + y * y);
      push[i].x += x * f; push[i].y += y * f;
      push[j].x -= x * f; push[j].y -= y * f;
    }
  }
  for (const [a, b] of edges) {
    const x = points[b].x - points[a].x, y = points[b].y - points[a].y, f = Math.hypot(x, y) / REACH;
    push[a].x += x * f; push[a].y += y * f;
    push[b].x -= x * f; push[b].y -= y * f;
  }
  points.forEach((p, i) => {
    const x = push[i].x - 0.12 * p.x, y = push[i].y - 0.12 * wide * wide * p.y, far = Math.hypot(x, y);
    if (far > 0) {
      p.x += (x / far) * Math.min(far, most[i]);
      p.y += (y / far) * Math.min(far, most[i]);
    }
  });
}

// fitted are the places in the picture, in its pixels.
function fitted(width, height, crowded) {
  const all = [...layout.at.values()], aside = crowded ? 24 : Math.min(80, width / 6), above = crowded ? 24 : 34;
  const least = { x: Math.min(...all.map((p) => p.x)), y: Math.min(...all.map((p) => p.y)) };
  const most = { x: Math.max(...all.map((p) => p.x)), y: Math.max(...all.map((p) => p.y)) };
  const fits = { x: (width - 2 * aside) / Math.max(1, most.x - least.x), y: (height - 2 * above - 14) / Math.max(1, most.y - least.y) };
  const wide = Math.min(fits.x, 1.7 * fits.y, 2.2), high = Math.min(fits.y, 1.7 * fits.x, 2.2);
  return new Map([...layout.at].map(([name, p]) => [name, {
    x: width / 2 + wide * (p.x - (least.x + most.x) / 2),
    y: (height - 14) / 2 + high * (p.y - (least.y + most.y) / 2),
  }]));
}

// picture is what stands in the graph: elements by host and by link, and where hosts are now.
const picture = { hosts: new Map(), links: new Map(), places: new Map(), moving: 0 };

function showGraph(view) {
  const svg = $('graph'), width = svg.clientWidth || 600, height = svg.clientHeight || 400;
  const names = view.hosts.map((host) => host.name).sort();
  const pairs = view.links.map((link) => [link.from, link.to].sort()).sort((a, b) => (a[0] + a[1] < b[0] + b[1] ? -1 : 1));
  const first = picture.places.size === 0;
  const moved = arrange(names, pairs, width / height);
  const signs = [view.hosts.map((host) => [host.name, host.nickname, standing(host)]), view.links.map((link) => [link.from, link.to, lineClass(link), linkWords(link)])];
  if (changed('graph', [signs, chosen, width, height])) makeGraph(view, width, height);
  for (const link of view.links) setFigures(view, link);
  const cut = ['hosts', 'links'].filter((list) => view.left_out[list]).map((list) => `${view.left_out[list].toLocaleString('en')} further ${list}`);
  setText($('cut'), cut.length ? `without ${cut.join(' and ')}` : '');
  const goal = fitted(width, height, names.length > CROWD);
  cancelAnimationFrame(picture.moving);
  if (first || !moved || calm.matches || names.length > CROWD) {
    picture.places = goal;
    setPlaces();
    return;
  }
  glide(goal);
}

// glide moves hosts to their new places within a third of a second.
function glide(goal) {
  const from = picture.places, begun = performance.now();
  const frame = (now) => {
    const part = Math.min(1, Math.max(0, (now - begun) / 350)), eased = part * part * (3 - 2 * part);
    picture.places = new Map([...goal].map(([name, to]) => {
      const was = from.get(name) || to;
      return [name, { x: was.x + (to.x - was.x) * eased, y: was.y + (to.y - was.y) * eased }];
    }));
    setPlaces();
    if (part < 1) picture.moving = requestAnimationFrame(frame);
  };
  frame(begun);
}

function makeGraph(view, width, height) {
  const svg = $('graph'), crowded = view.hosts.length > CROWD, size = crowded ? 6 : 11;
  const focused = document.activeElement && document.activeElement.closest && document.activeElement.closest('.host');
  const focusedName = focused ? focused.dataset.host : '';
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.classList.toggle('crowded', crowded);
  const lines = draw('g'), labels = draw('g'), dots = draw('g');
  picture.links.clear();
  picture.hosts.clear();
  for (const link of view.links) {
    const title = draw('title'), line = draw('path', { class: lineClass(link) }, title), text = draw('text');
    lines.append(line);
    labels.append(text);
    picture.links.set(keyOf(link), { link, line, title, text });
  }
  for (const host of view.hosts) {
    const kind = kindOf(host), picked = isChosen(host);
    const group = draw('g', {
      class: `host${picked ? ' picked' : ''}${picked || host.self ? ' kept' : ''}`, tabindex: 0, role: 'button',
      'aria-pressed': picked, 'aria-label': `${host.nickname || host.name}, ${standing(host)}`, 'data-host': host.name,
    },
    draw('title', {}, `${host.nickname || host.name}: ${standing(host)}`),
    draw('circle', { class: 'halo', r: size + 8 }),
    draw('circle', { class: `dot ${kind}`, r: host.self ? size + 1 : size }),
    draw('text', { class: kind === 'gone' ? 'gone-label' : '', y: size + 22 }, short(host.nickname || host.name, 18)));
    group.addEventListener('click', () => choose(host.name));
    group.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      choose(host.name);
    });
    dots.append(group);
    picture.hosts.set(host.name, group);
  }
  svg.replaceChildren(lines, labels, dots);
  if (focusedName && picture.hosts.has(focusedName)) picture.hosts.get(focusedName).focus();
}

const keyOf = (link) => `${link.from} ${link.to}`;

// setFigures writes at a link how good it is, where there is room: at all when they are few,
// else at this host's and at those of the chosen one.
function setFigures(view, link) {
  const { title, text } = picture.links.get(keyOf(link)), figure = figures(link);
  const few = view.links.length <= 24, chosenToo = chosen && (link.from === chosen || link.to === chosen);
  setText(title, `${nick(link.from)} – ${nick(link.to)}: ${linkWords(link)}${figure && ', ' + figure}`);
  setText(text, few || chosenToo || (link.own && view.hosts.length <= CROWD) ? figure : '');
  text.setAttribute('class', `figure${link.own ? '' : ' told'}${link.loss >= 0.01 ? ' lossy' : ''}`);
}

// setPlaces puts lines and hosts where the hosts are now.
function setPlaces() {
  for (const { link, line, text } of picture.links.values()) {
    const a = picture.places.get(link.from), b = picture.places.get(link.to);
    line.setAttribute('d', `M${a.x.toFixed(1)} ${a.y.toFixed(1)}L${b.x.toFixed(1)} ${b.y.toFixed(1)}`);
    text.setAttribute('visibility', Math.hypot(a.x - b.x, a.y - b.y) < ROOM ? 'hidden' : 'visible');
    text.setAttribute('x', ((a.x + b.x) / 2).toFixed(1));
    text.setAttribute('y', ((a.y + b.y) / 2 + 4).toFixed(1));
  }
  for (const [name, group] of picture.hosts) {
    const p = picture.places.get(name);
    group.setAttribute('transform', `translate(${p.x.toFixed(1)} ${p.y.toFixed(1)})`);
  }
}

new ResizeObserver(() => { if (last) showGraph(last); }).observe($('graph'));
look();
