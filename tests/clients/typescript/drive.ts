// Drives a gateway by the generated types and openapi-fetch, and prints what it saw as JSON: see docs/clients.md.
import createClient from "openapi-fetch";
import { randomUUID } from "node:crypto";
import type { Exec, ExecEvent, ExecRequest, paths, Problem } from "./pve-exec.js";

const vmid = Number(process.env.GATEWAY_VMID);

type Json = "application/json" | "application/problem+json"; // of all media types those that `data` and `error` are of

const client = createClient<paths, Json>({
  baseUrl: process.env.GATEWAY_URL,
  headers: { Authorization: `Bearer ${process.env.GATEWAY_TOKEN}` },
}); // a certificate of a private authority is trusted by NODE_EXTRA_CA_CERTS

/** A problem of the gateway's; `problem.code` is for programs. */
class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(`${problem.code}: ${problem.detail}`);
  }
}

/** What a request was answered with. Throws Refused. */
function take<T>(reply: { data?: T; error?: Problem }): T {
  if (reply.data === undefined) throw new Refused(reply.error!);
  return reply.data;
}

/** The events of a command as they happen; the last one is its end. */
async function* stream(vmid: number, body: ExecRequest): AsyncGenerator<ExecEvent> {
  const reply = await client.POST("/exec/{vmid}", {
    params: { path: { vmid }, header: { "Idempotency-Key": randomUUID() } },
    headers: { Accept: "application/x-ndjson" },
    body,
    parseAs: "stream",
  });
  let rest = "";
  for await (const text of take(reply)!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield JSON.parse(line) as ExecEvent;
  }
}

/** The exec when it has ended: asked for again and again, each time for up to 30 seconds. */
async function waitFor(id: string): Promise<Exec> {
  for (;;) {
    const exec = take(await client.GET("/execs/{id}", { params: { path: { id }, query: { wait: 30 } } }));
    if (exec.state === "ended") return exec;
  }
}

async function writeFile(path: string, content: Uint8Array<ArrayBuffer>, mode?: string) {
  const reply = await client.PUT("/guests/{vmid}/files", {
    params: { path: { vmid }, query: { path, mode } },
    headers: { "Content-Type": "application/octet-stream" },
    body: new Blob([content]),
    bodySerializer: (body) => body,
  });
  return take(reply);
}

async function readFile(path: string): Promise<Uint8Array> {
  const reply = await client.GET("/guests/{vmid}/files", {
    params: { path: { vmid }, query: { path } },
    parseAs: "arrayBuffer",
  });
  return new Uint8Array(take(reply));
}

async function main() {
  const guest = { path: { vmid } };
  const made = take(
    await client.POST("/guests", {
      params: { query: { wait: 60 } },
      body: { type: "lxc", vmid, template: process.env.TEMPLATE, storage: "local-lvm" },
    }),
  );
  const started = take(await client.POST("/guests/{vmid}/start", { params: { ...guest, query: { wait: 60 } } }));
  const listed = take(await client.GET("/guests"));
  const running = listed.guests.find((guest) => guest.vmid === vmid)?.status;

  const result = take(
    await client.POST("/exec/{vmid}", {
      params: guest,
      body: { command: ["sh", "-c", "echo out; echo err >&2; exit 3"] },
    }),
  );

  const told: string[] = [];
  const command = "echo ready; until [ -e /tmp/go ]; do sleep 0.1; done; echo gone";
  for await (const event of stream(vmid, { command })) {
    switch (event.type) {
      case "stdout":
      case "stderr":
        told.push(`${event.type}: ${event.data.trim()}`);
        if (event.data === "ready\n") await writeFile("/tmp/go", new Uint8Array(1));
        break;
      case "end":
        told.push(`end: ${event.exit_code}`);
    }
  }

  const begun = take(
    await client.POST("/exec/{vmid}", {
      params: { ...guest, header: { Prefer: "respond-async" } },
      body: { command: ["cat"], stdin: "later\n", background: "kill" },
    }),
  );
  const ended = await waitFor(begun.id);
  const output = take(
    await client.GET("/execs/{id}/stdout", { params: { path: { id: begun.id } }, parseAs: "text" }),
  );

  const bytes = new Uint8Array(1 << 18).map((_, place) => place);
  const written = await writeFile("/tmp/data", bytes, "0600");
  const equal = Buffer.compare(await readFile("/tmp/data"), bytes) === 0;

  const { error, response } = await client.GET("/guests/{vmid}", { params: { path: { vmid: 999999999 } } });

  const stopped = take(await client.POST("/guests/{vmid}/stop", { params: { ...guest, query: { wait: 60 } } }));
  take(await client.DELETE("/guests/{vmid}", { params: { ...guest, query: { confirm: vmid, wait: 60 } } }));
  return {
    guest: [made.state, started.state, running, stopped.state],
    run: [result.stdout, result.stderr, result.exit_code, result.reason],
    stream: [told],
    detached: [ended.exit_code, output],
    file: [written.size, written.mode, equal],
    problem: [response.status, error?.code, error?.vmid],
  };
}

console.log(JSON.stringify(await main()));
