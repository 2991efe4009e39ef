// Runs Mozilla's observatory against one site on this machine: its own retriever, tests and grades, with ports of our choice.
//   node grade.mjs FOLDER HTTP_PORT HTTPS_PORT     FOLDER: where it is installed
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, httpPort, httpsPort] = process.argv.slice(2);
const observatory = `${folder}/node_modules/@mdn/mdn-http-observatory`;
// The list of hosts that browsers come with is downloaded where there is a network; nobody here is on it.
const preloaded = `${observatory}/conf/hsts-preload.json`;
if (!fs.existsSync(preloaded)) fs.writeFileSync(preloaded, "{}");
const load = (file) => import(pathToFileURL(`${observatory}/src/${file}.js`).href);
const { retrieve } = await load("retriever/retriever");
const { ALL_TESTS } = await load("constants");
const { getGradeForScore, getScoreModifier } = await load("grader/grader");
const { MINIMUM_SCORE_FOR_EXTRA_CREDIT } = await load("grader/charts");

const retrieved = await retrieve("localhost", { httpPort, httpsPort });
const results = ALL_TESTS.map((test) => test(retrieved));
let uncurved = 100;
let score = 100;
for (const result of results) {
  const modifier = getScoreModifier(result.result);
  score += modifier;
  uncurved += Math.min(modifier, 0);
  console.log(`  ${result.pass ? "pass" : "FAIL"} ${String(modifier).padStart(3)}  ${result.result}`);
}
// As its scanner does.
const final = getGradeForScore(uncurved >= MINIMUM_SCORE_FOR_EXTRA_CREDIT ? score : uncurved);
console.log(`grade ${final.grade}, score ${final.score}`);
