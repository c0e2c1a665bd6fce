// Runs a command in a guest: NODE_EXTRA_CA_CERTS=$GATEWAY_CA node first.js 101 uname -a
import createClient from "openapi-fetch";
import type { paths } from "./pve-exec.js";

type Json = "application/json" | "application/problem+json"; // of all media types those that `data` and `error` are of

const client = createClient<paths, Json>({
  baseUrl: process.env.GATEWAY_URL,
  headers: { Authorization: `Bearer ${process.env.GATEWAY_TOKEN}` },
});

const [vmid, ...command] = process.argv.slice(2);
const { data, error } = await client.POST("/exec/{vmid}", {
  params: { path: { vmid: Number(vmid) } },
  body: { command },
});
if (error) throw new Error(`${error.code}: ${error.detail}`);
process.stdout.write(data.stdout);
process.exitCode = data.exit_code ?? 1;
