// Makes screenshots of a dashboard.
//
//     node screenshots.js URL DIRECTORY [NAME=PATH ...]
//
// Without names, the main pages at 1400 and 360 pixels, light and dark. With names, only these, at 1400 pixels. A path may end
// with `!SELECTOR`: what is clicked to open a dialog. `sample:FOLDER` in place of the URL starts a small cluster with the
// binaries in that folder, and waits until it has something to show.

const path = require('node:path')
const { launch } = require('./browser')
const { sample } = require('./sample')

const [from, directory, ...wanted] = process.argv.slice(2)

const PAGES = {
  overview: '/',
  topics: '/topics?sort=-depth',
  topic: '/topics/orders',
  channel: '/topics/orders/shipping',
  messages: '/messages/orders/archive',
  empty: '/topics/orders/archive!a[href*=empty_channel]',
  nodes: '/nodes',
  clients: '/clients',
  discovery: '/lookup',
  counter: '/counter',
  audit: '/audit',
}

/** How long the sample runs before its pictures. */
const WARM_UP_MS = Number(process.env.WARM_UP_MS) || 75000

async function main() {
  const cluster = from.startsWith('sample:') ? await sample(from.slice('sample:'.length)) : { url: from, stop() {} }
  const browser = await launch()
  try {
    if (cluster.url !== from) await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS))
    const cut = (pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]
    const pages = wanted.length > 0 ? Object.fromEntries(wanted.map(cut)) : PAGES
    for (const colorScheme of ['light', 'dark']) {
      for (const width of wanted.length > 0 ? [1400] : [1400, 360]) {
        const context = await browser.newContext({ viewport: { width, height: width > 500 ? 900 : 740 }, colorScheme })
        const page = await context.newPage()
        for (const [name, at] of Object.entries(pages)) {
          const [where, click] = at.split('!')
          await page.goto(cluster.url + where)
          await page.waitForSelector('footer')
          if (click) {
            await page.click(click)
            await page.waitForSelector('dialog[open]')
          }
          const file = path.join(directory, `${name}-${width}-${colorScheme}.png`)
          await page.screenshot({ path: file, fullPage: !click && width < 500 })
        }
        await context.close()
      }
    }
  } finally {
    await browser.close()
    cluster.stop()
  }
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
