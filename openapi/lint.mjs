// Lints openapi.yaml by Redocly's recommended rules and some of ours; every warning fails. `make lint-spec`
import { createConfig, lint } from "@redocly/openapi-core";
import { fileURLToPath } from "node:url";

const rules = {
  "no-unused-components": "off", // extensions refer to some; tests/api/test_openapi.py counts those, too
  "no-invalid-media-type-examples": "error",
  "no-invalid-schema-examples": "error",
  "no-invalid-parameter-examples": "error",
  "operation-description": "error",
  "no-illogical-composition-keywords": "off", // it does not see that `const` tells two schemas apart
  "operation-2xx-response": "off", // a WebSocket has 101
  "operation-operationId-url-safe": "error",
  "operation-operationId-unique": "error",
  "operation-tag-defined": "error",
  "parameter-description": "error",
  "tag-description": "error",
};

const config = await createConfig({ extends: ["recommended"], rules });
const found = await lint({ ref: fileURLToPath(new URL("openapi.yaml", import.meta.url)), config });
for (const problem of found) {
  const { pointer } = problem.location[0];
  console.error(`openapi.yaml ${pointer}: ${problem.severity} ${problem.ruleId}: ${problem.message}`);
}
console.log(`openapi.yaml: ${found.length} problems`);
process.exit(found.length === 0 ? 0 : 1);
