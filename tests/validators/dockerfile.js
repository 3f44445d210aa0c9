'use strict';
// Validates Dockerfiles; prints one JSON object per problem.

const fs = require('fs');
const { validate } = require('dockerfile-utils');

let clean = true;
for (const path of process.argv.slice(2)) {
  for (const problem of validate(fs.readFileSync(path, 'utf8'))) {
    clean = false;
    console.log(JSON.stringify({ path, line: problem.range.start.line + 1, message: problem.message }));
  }
}
process.exit(clean ? 0 : 1);
