#!/usr/bin/env bash
# Makes the screenshots of the README and of docs/DASHBOARD.md. Needs the binaries (cargo build --workspace --bins) and what
# tests/run installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p docs/screenshots
export NODE_PATH=$PWD/tests/.env/dashboard/node_modules
node tests/clients/dashboard/screenshots.js "sample:${1:-target/debug}" docs/screenshots \
    overview=/ topic=/topics/orders 'empty=/topics/orders/archive!a[href*="empty_channel"]'
