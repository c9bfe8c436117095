// Runs one driver on Node: `node run.mjs <driver> <url> <headers as JSON> <names as JSON>`.
// It ends with its standard input, so that none is left over when the tests are killed.
const [driver, url, headers, names] = process.argv.slice(2);
const { listen } = await import(`./drivers/${driver}.mjs`);

function see(event, data, id) {
  process.stdout.write(`${JSON.stringify({ event, data, id: id ?? "" })}\n`);
}

process.stdin.on("end", () => process.exit()).resume();
await listen(url, JSON.parse(names), see, JSON.parse(headers));
