// Consumes through nsqjs in the style of its users: a Reader and its message event.
//
// Prints one JSON line per message. Ends when --count messages are finished.

const fs = require('node:fs')
const {parseArgs} = require('node:util')
const nsq = require('nsqjs')

const {values: options} = parseArgs({
  options: {
    nsqd: {type: 'string', multiple: true, default: []}, // host:port
    lookupd: {type: 'string', multiple: true, default: []}, // host:port of HTTP
    topic: {type: 'string'},
    channel: {type: 'string'},
    count: {type: 'string'},
    'requeue-ms': {type: 'string'}, // requeue each first delivery with this delay
    'heartbeat-seconds': {type: 'string', default: '30'},
    'max-in-flight': {type: 'string', default: '10'},
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

if (options.websocket) require('./websocket_shim').install(options.websocket)

const say = (event) => console.log(JSON.stringify(event))

const reader = new nsq.Reader(options.topic, options.channel, {
  nsqdTCPAddresses: options.nsqd,
  lookupdHTTPAddresses: options.lookupd,
  lookupdPollInterval: 1,
  heartbeatInterval: Number(options['heartbeat-seconds']),
  maxInFlight: Number(options['max-in-flight']),
  ...upgrades,
})
let remaining = Number(options.count)

reader.on('nsqd_connected', (host, port) => say({event: 'connected', node: `${host}:${port}`}))
reader.on('nsqd_closed', (host, port) => say({event: 'closed', node: `${host}:${port}`}))
reader.on('error', (error) => say({event: 'error', error: error.message}))

reader.on('message', (message) => {
  say({
    event: 'message',
    id: message.id,
    body: message.body.toString(),
    attempts: message.attempts,
    timestamp: message.timestamp.toString(),
    at: performance.now() / 1000,
  })
  if (options['requeue-ms'] !== undefined && message.attempts === 1) {
    message.requeue(Number(options['requeue-ms']), false)
    return
  }
  message.finish()
  remaining -= 1
  if (remaining === 0) {
    // Delayed, so that the FIN of this message is written first.
    setTimeout(() => {
      reader.close()
      say({event: 'done'})
    }, 100)
  }
})

reader.connect()
