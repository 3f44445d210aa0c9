// Checks the dashboard in a browser. The test starts a cluster with what each check needs, and names it.
//
//     node checks.js CHECK URL [ARGUMENT ...]
//
// Prints one JSON line at the end: {"event": "done", ...}. Any failure ends the program with an error.

const assert = require('node:assert')
const fs = require('node:fs')
const { launch, watchedPage } = require('./browser')

const [check, url, ...args] = process.argv.slice(2)
const say = (event) => console.log(JSON.stringify(event))

const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')
const PAGES = ['/', '/topics', '/nodes', '/clients', '/lookup', '/counter', '/audit', '/problems/no-consumers']

// Runs axe without weakening the page's content security policy: the browser's debugger evaluates it.
async function violations(page) {
  await page.evaluate(AXE)
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }))
  return violations.map((found) => `${found.id}: ${found.nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`)
}

async function withPage(options, body) {
  const browser = await launch()
  try {
    const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options })
    const { page, faults } = await watchedPage(context, url)
    await body(page, context)
    assert.deepStrictEqual(faults, [])
  } finally {
    await browser.close()
  }
}

// Waits for a condition on the page. Playwright's own waiting needs eval, which the page's policy forbids.
async function until(page, what, condition, argument) {
  const deadline = Date.now() + 20000
  while (!(await page.evaluate(condition, argument))) {
    assert.ok(Date.now() < deadline, `not within 20 s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

const CHECKS = {
  // Every page, light and dark, wide and narrow: no fault, nothing wider than the screen, no accessibility violation.
  async pages(topic, channel, node) {
    const object = `${encodeURIComponent(topic)}/${encodeURIComponent(channel)}`
    const all = [...PAGES, `/topics/${encodeURIComponent(topic)}`, `/topics/${object}`, `/nodes/${encodeURIComponent(node)}`,
      `/messages/${object}`, `/policy/${object}`, `/dead/${encodeURIComponent(topic)}`, '/topics/no-such-topic',
      `/act?action=empty_channel&topic=${encodeURIComponent(topic)}&channel=${encodeURIComponent(channel)}`]
    for (const colorScheme of ['light', 'dark']) {
      for (const width of [1400, 360]) {
        await withPage({ colorScheme, viewport: { width, height: 800 } }, async (page) => {
          for (const path of all) {
            await page.goto(url + path)
            await page.waitForSelector('#main')
            const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
            assert.ok(overflow <= 0, `${path} at ${width}: ${overflow} pixels too wide`)
            if (width === 1400) assert.deepStrictEqual(await violations(page), [], `${path} ${colorScheme}`)
          }
        })
      }
    }
  },

  // The problem list names the channel and the node within two intervals.
  async problems(channel, node) {
    await withPage({}, async (page) => {
      await page.goto(url)
      const found = page.locator('.problems li.crit', { hasText: channel })
      await found.filter({ hasText: node }).first().waitFor({ timeout: 15000 })
    })
  },

  // Figures change without a reload; pause stops that.
  async live(topic) {
    await withPage({}, async (page) => {
      await page.goto(`${url}/topics/${topic}`)
      await page.waitForSelector('#status time')
      const before = await page.textContent('#status time')
      await until(page, 'the figures are newer', (before) => document.querySelector('#status time').textContent !== before, before)
      await page.keyboard.press('p')
      await page.waitForSelector('#status.paused')
      say({ event: 'paused' })
      await page.keyboard.press('p')
      await page.waitForSelector('#status:not(.paused)')
    })
  },

  // Keys: filter, rows, open, help.
  async keys(topic) {
    await withPage({}, async (page) => {
      await page.goto(`${url}/topics`)
      await page.waitForSelector('tbody tr')
      await page.keyboard.press('/')
      await page.keyboard.type(topic)
      await until(page, 'one row is left', (topic) => {
        const names = [...document.querySelectorAll('tbody th')].map((cell) => cell.textContent.trim())
        return names.length === 1 && names[0].startsWith(topic)
      }, topic)
      assert.ok(page.url().includes(`filter=${topic}`))
      await page.evaluate(() => document.activeElement.blur())
      await page.keyboard.press('?')
      await page.waitForSelector('dialog[open] kbd')
      await page.keyboard.press('Escape')
      await page.waitForSelector('dialog:not([open])', { state: 'attached' })
      await page.keyboard.press('j')
      await page.waitForSelector('tr.cursor')
      await page.keyboard.press('Enter')
      await page.waitForURL(`${url}/topics/${topic}`)
    })
  },

  // The dialog states the losses and wants the name; the result names each daemon.
  async destroy(topic, channel, lost) {
    await withPage({}, async (page) => {
      await page.goto(`${url}/topics/${topic}/${channel}`)
      await page.click('a[href*="empty_channel"]')
      await page.waitForSelector('dialog[open] [data-lost]')
      assert.strictEqual(await page.getAttribute('dialog [data-lost]', 'data-lost'), lost)
      assert.ok(await page.isDisabled('dialog [data-submit]'), 'without the name, it cannot be sent')
      await page.fill('dialog [data-expect]', channel)
      await page.click('dialog [data-submit]')
      await page.waitForSelector('dialog table[data-table=result]')
      assert.ok((await page.textContent('dialog')).includes('Done everywhere'))
      assert.deepStrictEqual(await violations(page), [])
      await page.click('dialog [data-close]')
      await page.goto(`${url}/audit`)
      await page.locator('tbody tr', { hasText: 'empty_channel' }).first().waitFor()
    })
  },

  // Markup in names, bodies and reasons is text. A dialog that a script opens is a fault.
  async hostile(topic, channel) {
    await withPage({}, async (page) => {
      for (const path of ['/clients', `/topics/${topic}/${channel}`, `/messages/${topic}/${channel}`, '/audit', '/topics?filter=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E', '/topics/%3Cscript%3Ealert(1)%3C%2Fscript%3E']) {
        await page.goto(url + path)
        await page.waitForSelector('#main')
        assert.strictEqual(await page.locator('#main img[src=x], #main script').count(), 0, path)
      }
      await page.goto(`${url}/messages/${topic}/${channel}`)
      assert.ok((await page.textContent('#main')).includes('<img src=x'), 'the body is shown as text')
      await page.goto(`${url}/clients`)
      assert.ok((await page.textContent('#main')).includes('<img src=x'), 'the client is shown as text')
    })
  },

  // First paint: few bytes, and soon.
  async size() {
    await withPage({}, async (page) => {
      let bytes = 0
      const client = await page.context().newCDPSession(page)
      await client.send('Network.enable')
      client.on('Network.loadingFinished', (event) => { bytes += event.encodedDataLength })
      const started = Date.now()
      await page.goto(url)
      await page.waitForSelector('.stats')
      const elapsed = Date.now() - started
      assert.ok(bytes < 100_000, `${bytes} bytes`)
      say({ event: 'measured', bytes, elapsed })
    })
  },

  // After a restart of the dashboard, the page goes on by itself.
  async restart() {
    await withPage({}, async (page) => {
      await page.goto(url)
      await page.waitForSelector('#status time')
      say({ event: 'loaded' })
      await page.waitForSelector('#status.stale', { timeout: 60000 })
      say({ event: 'stale' })
      await page.waitForSelector('#status:not(.stale)', { timeout: 60000 })
    })
  },
}

CHECKS[check](...args)
  .then(() => say({ event: 'done' }))
  .catch((error) => {
    console.error(error)
    process.exit(1)
  })
