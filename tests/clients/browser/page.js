// Runs the script of a page, as a browser would, with as much of a browser as the page uses.
//
//     node page.js FILE ORIGIN QUERY
//
// Every request has the page's origin, and its answer is readable only if nsqd allows that. Prints one JSON line for each
// item that the page adds to a list: {"event": "shown", "list": ..., "text": ...}.

const fs = require('node:fs')
const http = require('node:http')
const vm = require('node:vm')

const [file, origin, search] = process.argv.slice(2)

const say = (event) => console.log(JSON.stringify(event))

// Sends a request. The promise gets the answer once its head has arrived.
const request = (url, {method = 'GET', headers = {}, body} = {}) =>
  new Promise((resolve, reject) => {
    const sent = http.request(url, {method, headers: {...headers, Origin: origin}}, (answer) => {
      if (answer.headers['access-control-allow-origin'] !== origin) {
        answer.destroy()
        reject(new TypeError(`${method} ${url}: the page may not read the answer (${answer.statusCode})`))
        return
      }
      resolve(answer)
    })
    sent.on('error', reject)
    sent.end(body)
  })

const fetch = async (url, options) => {
  const answer = await request(url, options)
  const read = async () => {
    let text = ''
    answer.setEncoding('utf8')
    for await (const piece of answer) text += piece
    return text
  }
  return {
    ok: answer.statusCode === 200,
    status: answer.statusCode,
    text: read,
    json: async () => JSON.parse(await read()),
  }
}

// The user submits the form once, when events have begun.
let isSubmitted = false
const submit = () => {
  if (!isSubmitted) getElementById('publish').listeners.submit({preventDefault() {}})
  isSubmitted = true
}

class EventSource {
  constructor(url) {
    this.read(url).catch((error) => this.onerror?.(error))
  }

  async read(url) {
    this.answer = await request(url)
    if (this.answer.statusCode !== 200) throw new Error(`${this.answer.statusCode}`)
    submit()
    let text = ''
    this.answer.setEncoding('utf8')
    for await (const piece of this.answer) {
      text += piece
      const blocks = text.split('\n\n')
      text = blocks.pop()
      for (const block of blocks) {
        const data = block.split('\n').filter((line) => line.startsWith('data: '))
        if (data.length > 0) this.onmessage?.({data: data.map((line) => line.slice(6)).join('\n')})
      }
    }
    throw new Error('the stream ended')
  }

  close() {
    this.answer?.destroy()
  }
}

class Element {
  constructor(id) {
    this.id = id
    this.children = []
    this.listeners = {}
    this.value = 'published by the page'
  }

  append(...children) {
    this.children.push(...children)
    if (this.id) say({event: 'shown', list: this.id, text: children[0].children.at(-1)})
  }

  addEventListener(name, listener) {
    this.listeners[name] = listener
  }
}

const elements = new Map()
const getElementById = (id) => {
  if (!elements.has(id)) elements.set(id, new Element(id))
  return elements.get(id)
}

const script = fs.readFileSync(file, 'utf8').match(/<script>([^]*)<\/script>/)[1]
vm.runInNewContext(script, {
  document: {getElementById, createElement: () => new Element()},
  location: {search},
  URLSearchParams,
  fetch,
  EventSource,
  setTimeout,
  console: {error: (error) => say({event: 'error', error: String(error)})},
})
