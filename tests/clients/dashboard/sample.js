// A small cluster with something to see: two nsqlookupds, three nsqds, topics with and without problems, consumers.

const { spawn } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

// Starts a program and waits until its log names its addresses.
function start(children, program, args, wanted) {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  children.push(child)
  return new Promise((resolve, reject) => {
    let log = ''
    child.stderr.setEncoding('utf8')
    child.stderr.on('data', (text) => {
      log += text
      const found = wanted.map((kind) => log.match(new RegExp(`${kind}: listening on (\\S+)`))?.[1])
      if (found.every(Boolean)) resolve(found)
    })
    child.on('exit', () => reject(new Error(`${program} ended: ${log}`)))
  })
}

const post = async (http, target, body = '') => {
  const answer = await fetch(`http://${http}${target}`, { method: 'POST', body })
  if (!answer.ok) throw new Error(`${target}: ${answer.status} ${await answer.text()}`)
}

/** `programs` is the directory of the binaries. */
async function sample(programs) {
  const children = []
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'nsq-sample-'))
  const program = (name) => path.join(programs, name)
  const local = ['--tcp-address=127.0.0.1:0', '--http-address=127.0.0.1:0', '--broadcast-address=127.0.0.1']
  const lookupds = []
  for (let number = 0; number < 2; number++) lookupds.push(await start(children, program('nsqlookupd'), local, ['TCP', 'HTTP']))
  const nodes = []
  for (let number = 0; number < 3; number++) {
    const data = path.join(folder, `node-${number}`)
    fs.mkdirSync(data)
    const flags = [`--data-path=${data}`, `--node-id=${number + 1}`, ...lookupds.map(([tcp]) => `--lookupd-tcp-address=${tcp}`)]
    const [tcp, http] = await start(children, program('nsqd'), [...local, ...flags], ['TCP', 'HTTP'])
    nodes.push({ tcp, http })
  }
  const given = lookupds.map(([, http]) => `--lookupd-http-address=${http}`)
  const admin = ['admin', '--http-address=127.0.0.1:0', '--sample-interval=1s', ...given]
  const [[http]] = [await start(children, program('nsq'), admin, ['HTTP'])]

  const channels = {
    orders: ['billing', 'shipping', 'archive'],
    payments: ['ledger', 'fraud-check'],
    signups: ['welcome-mail'],
    'events.click': ['warehouse', 'live#ephemeral'],
    invoices: ['pdf'],
  }
  for (const [topic, names] of Object.entries(channels)) {
    for (const node of nodes) {
      await post(node.http, `/topic/create?topic=${topic}`)
      for (const name of names) await post(node.http, `/channel/create?topic=${topic}&channel=${encodeURIComponent(name)}`)
    }
  }
  await post(nodes[0].http, '/channel/pause?topic=invoices&channel=pdf')
  // Consumers: shipping misses the third node, archive has none.
  const consume = (topic, channel, on) => {
    const flags = on.flatMap((node) => ['--nsqd-tcp', node.tcp])
    children.push(spawn(program('nsq'), [...flags, 'sub', topic, channel], { stdio: 'ignore' }))
  }
  consume('orders', 'billing', nodes)
  consume('orders', 'shipping', nodes.slice(0, 2))
  for (const [topic, channel] of [['payments', 'ledger'], ['payments', 'fraud-check'], ['signups', 'welcome-mail'], ['events.click', 'warehouse']]) consume(topic, channel, nodes)

  let number = 0
  const publish = async () => {
    for (const [topic, count] of [['orders', 3], ['payments', 2], ['signups', 1], ['events.click', 6], ['invoices', 1]]) {
      const bodies = Array.from({ length: count }, () => JSON.stringify({ id: ++number, customer: 'c-417', total: 99.5, currency: 'EUR' }))
      await post(nodes[number % 3].http, `/mpub?topic=${topic}`, bodies.join('\n'))
    }
  }
  const timer = setInterval(() => publish().catch(() => {}), 120)
  const stop = () => {
    clearInterval(timer)
    for (const child of children) {
      child.removeAllListeners('exit')
      child.kill('SIGKILL')
    }
    fs.rmSync(folder, { recursive: true, force: true })
  }
  return { url: `http://${http}`, stop }
}

module.exports = { sample }
