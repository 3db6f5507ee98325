// Reads simulations as a JSON list and prints the decision on each: Allowed, ExplicitlyDenied, ImplicitlyDenied,
// or the errors that kept it from being judged.
import { runSimulation } from '@cloud-copilot/iam-simulate'
import { readFileSync } from 'node:fs'

const results = []
for (const simulation of JSON.parse(readFileSync(0, 'utf8'))) {
  const response = await runSimulation(simulation, {})
  results.push(response.overallResult ?? response)
}
console.log(JSON.stringify(results))
