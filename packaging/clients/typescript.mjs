// Writes the API's types for TypeScript: node typescript.mjs openapi.yaml pve-exec.d.ts
import openapiTS, { astToString } from "openapi-typescript";
import { writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import ts from "typescript";

const [from, to] = process.argv.slice(2);
const blob = ts.factory.createTypeReferenceNode("Blob");
const nodes = await openapiTS(pathToFileURL(from), {
  rootTypes: true, // `Exec` beside `components["schemas"]["Exec"]`
  rootTypesNoSchemaPrefix: true,
  defaultNonNullable: false, // what has a default may be left out of a request
  transform: (schema) => (schema.format === "binary" ? blob : undefined),
});
await writeFile(to, astToString(nodes));
