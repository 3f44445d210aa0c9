// Publishes through nsqjs in the style of its users: a Writer and callbacks.
//
// Prints one JSON line per reply of nsqd: {"event": "published", "count": n} or {"event": "error", ...}.

const fs = require('node:fs')
const {parseArgs} = require('node:util')
const nsq = require('nsqjs')

const {values: options} = parseArgs({
  options: {
    nsqd: {type: 'string'},
    topic: {type: 'string'},
    count: {type: 'string', default: '1'},
    prefix: {type: 'string', default: 'message-'}, // bodies are PREFIX0, PREFIX1, ...
    'defer-ms': {type: 'string', default: '0'},
    batch: {type: 'string', default: '1'}, // messages per MPUB; 1 uses PUB
    'tls-ca': {type: 'string'}, // authority to trust; requests TLS
    compression: {type: 'string'}, // snappy or deflate
    'auth-secret': {type: 'string'},
    websocket: {type: 'string'}, // connect through WebSockets at this path; nsqd is an HTTP address
  },
})

// The options that the connection requests in IDENTIFY, and its secret.
const upgrades = {}
if (options['tls-ca']) {
  upgrades.tls = true
  upgrades.ca = fs.readFileSync(options['tls-ca'])
}
if (options.compression) upgrades[options.compression] = true
if (options['auth-secret']) upgrades.authSecret = options['auth-secret']

const deferMs = Number(options['defer-ms'])
const batchSize = Number(options.batch)
const bodies = Array.from({length: Number(options.count)}, (_, n) => `${options.prefix}${n}`)

if (options.websocket) require('./websocket_shim').install(options.websocket)

const say = (event) => console.log(JSON.stringify(event))

const [host, port] = options.nsqd.split(':')
const writer = new nsq.Writer(host, Number(port), upgrades)
let unanswered = 0

const answered = (count) => (error) => {
  if (error) {
    say({event: 'error', error: error.message})
    process.exitCode = 1
  } else {
    say({event: 'published', count})
  }
  unanswered -= 1
  if (unanswered === 0) writer.close()
}

writer.on('ready', () => {
  for (let first = 0; first < bodies.length; first += batchSize) {
    const batch = bodies.slice(first, first + batchSize)
    unanswered += 1
    if (deferMs > 0) {
      writer.deferPublish(options.topic, batch, deferMs, answered(batch.length))
    } else {
      writer.publish(options.topic, batchSize > 1 ? batch : batch[0], answered(batch.length))
    }
  }
})

writer.on('error', (error) => {
  say({event: 'error', error: error.message})
  process.exit(1)
})

writer.connect()
