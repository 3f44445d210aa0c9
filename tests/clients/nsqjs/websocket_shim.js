// Lets nsqjs, unchanged, connect through WebSockets: nsqd's HTTP address takes the place of its TCP address.
//
// install() replaces the function with which nsqjs opens a socket.

const net = require('node:net')
const {WebSocket, createWebSocketStream} = require('ws')

exports.install = (target = '/v2') => {
  const connectTcp = net.connect
  // The WebSocket itself opens a socket with the same function.
  const createConnection = (options) => connectTcp({...options, path: undefined})
  net.connect = ({host, port}, connected) => {
    const socket = new WebSocket(`ws://${host}:${port}${target}`, 'nsq.v2', {createConnection})
    const stream = createWebSocketStream(socket)
    socket.once('open', connected)
    // What a stream over TCP has in addition.
    stream.setNoDelay = () => stream
    stream.setTimeout = () => stream
    return stream
  }
}
