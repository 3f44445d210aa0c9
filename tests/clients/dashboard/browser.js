// What the programs of this folder share: a browser, pages, and what a page must never do.

const { chromium } = require('playwright-core')

// Debian's browser; `NSQ_TESTS_CHROMIUM` names another one.
const executablePath = process.env.NSQ_TESTS_CHROMIUM || '/usr/bin/chromium'

const launch = () => chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] })

// A page that records errors of scripts, violations of the content security policy, and requests to other origins.
async function watchedPage(context, origin) {
  const page = await context.newPage()
  const faults = []
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`))
  page.on('console', (message) => {
    // A refused order has an error status, which the browser logs.
    const isStatus = message.text().startsWith('Failed to load resource')
    if (message.type() === 'error' && !isStatus) faults.push(`console: ${message.text()}`)
  })
  page.on('request', (request) => {
    const url = request.url()
    if (!url.startsWith(origin) && !url.startsWith('blob:') && !url.startsWith('data:')) faults.push(`other origin: ${url}`)
  })
  page.on('dialog', (dialog) => {
    faults.push(`script ran: ${dialog.message()}`)
    dialog.dismiss()
  })
  return { page, faults }
}

module.exports = { launch, watchedPage }
