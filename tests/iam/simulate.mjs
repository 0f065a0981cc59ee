// Answers, for lists of requests on stdin (a JSON array a line), which of them IAM would allow: the decisions of
// iam-simulate, in the same order, as a JSON array a line. A request it can't judge ends the process: an error that
// counted as "refused" would make any test of a refusal pass.

import { createInterface } from 'node:readline'
import { runSimulation } from '@cloud-copilot/iam-simulate'

for await (const line of createInterface({ input: process.stdin })) {
  const decisions = []
  for (const asked of JSON.parse(line)) {
    const answer = await runSimulation(
      {
        request: {
          principal: asked.principal,
          action: asked.action,
          resource: { resource: asked.resource, accountId: asked.account },
          contextVariables: asked.context,
        },
        sessionPolicy: asked.session_policy ?? undefined,
        identityPolicies: asked.policies.map((policy, index) => ({ name: `policy-${index}`, policy })),
        resourcePolicy: asked.resource_policy ?? undefined,
        serviceControlPolicies: [],
        resourceControlPolicies: [],
      },
      {},
    )
    if (answer.resultType === 'error') {
      console.error(JSON.stringify(asked), JSON.stringify(answer.errors))
      process.exit(1)
    }
    decisions.push(answer.overallResult)
  }
  console.log(JSON.stringify(decisions))
}
