// Receives notifications of changes, verifies them, drops repeats, and keeps the newest state of each customer.
//
//     FEED_SECRET=whsec_… node feed_receiver.mjs 8099
//
// Needs Node 18 and no package. Keep `seen` and `access` in your database, in one transaction, instead of in memory.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from(process.env.FEED_SECRET.replace(/^whsec_/, ""), "base64");
const TOLERANCE_S = 300;
const MAX_BYTES = 1024 * 1024;
const seen = new Set();
const access = new Map();

function isVerified(headers, body) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  const signatures = headers["webhook-signature"];
  if (!id || !signatures || !/^\d+$/.test(timestamp ?? "")) return false;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  return signatures.split(" ").some((one) => {
    const [version, signature] = one.split(",");
    const given = Buffer.from(signature ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

function apply(id, message) {
  if (seen.has(id)) return "repeat";
  seen.add(id);
  const { customer_id: customer, version } = message.data;
  // A notification that is older than the stored state is a late retry.
  if (message.type === "access.changed" && version > (access.get(customer)?.version ?? 0)) {
    access.set(customer, message.data);
  }
  return "new";
}

createServer((request, response) => {
  const chunks = [];
  let bytes = 0;
  request.on("data", (chunk) => {
    bytes += chunk.length;
    if (bytes > MAX_BYTES) request.destroy();
    else chunks.push(chunk);
  });
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    if (!isVerified(request.headers, body)) return response.writeHead(401).end();
    const message = JSON.parse(body);
    const outcome = apply(request.headers["webhook-id"], message);
    console.log(outcome, message.type, message.data.customer_id, message.data.version);
    response.writeHead(204).end();
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
