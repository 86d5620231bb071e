// The documentation, made from openapi.json: nothing is written twice, nothing comes from elsewhere.

/** An element with children; text is text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Text in which `code` stands between backticks. */
function prose(text) {
  const parts = (text ?? "").split("`");
  return make("span", {}, ...parts.map((piece, index) => (index % 2 ? make("code", { textContent: piece }) : piece)));
}

/** A description: paragraphs, and code between fences. */
function paragraphs(text) {
  return (text ?? "").split(/\n\n+/).filter(Boolean).map((block) =>
    block.startsWith("```") ? make("pre", { textContent: block.replace(/^```\n?/gm, "").trimEnd() }) : make("p", {}, prose(block)));
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return make("div", { className: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const json = (value) => make("pre", { textContent: JSON.stringify(value, null, 2) });

/** What kind of value a schema stands for, in a few words. */
function kind(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).filter((name) => name !== "null").join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  const range = [schema.minimum != null && `≥ ${schema.minimum}`, schema.maximum != null && `≤ ${schema.maximum}`].filter(Boolean);
  return [schema.type ?? "value", ...range].join(", ");
}

/** First example that a response brings. */
function example(content) {
  const media = content?.["application/json"];
  const given = Object.values(media?.examples ?? {})[0]?.value;
  return given ?? media?.example;
}

function operation(path, method, { summary, description, parameters = [], requestBody, responses, security }) {
  const id = `${method}${path.replace(/\W+/g, "-")}`;
  const shown = example(responses["200"]?.content);
  const answers = Object.entries(responses).map(([status, { description: text }]) => [make("code", { textContent: status }), prose(text)]);
  return make(
    "section", { className: "card", id },
    make("h2", {}, make("span", { className: "method", textContent: method.toUpperCase() }), path),
    make("p", {}, make("strong", { textContent: summary ?? "" }), security ? " · asks for a key if the service has any" : ""),
    ...paragraphs(description),
    parameters.length ? make("h3", { textContent: "Parameters" }) : null,
    parameters.length ? table(["Name", "Kind", ""], parameters.filter((one) => one.in === "query").map((one) => [make("code", { textContent: one.name }), kind(one.schema), prose(one.description)])) : null,
    requestBody ? make("h3", { textContent: "Body" }) : null,
    requestBody ? make("p", { textContent: requestBody.description }) : null,
    requestBody ? make("p", {}, prose(Object.keys(requestBody.content).map((type) => `\`${type}\``).join(", "))) : null,
    make("h3", { textContent: "Answers" }),
    table(["Status", ""], answers),
    shown ? json(shown) : null,
  );
}

function schemaCard(name, schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([field, one]) =>
    [make("code", { textContent: field }), kind(one) + (required.has(field) ? "" : ", optional"), prose(one.description)]);
  return make("section", { className: "card", id: `schema-${name}` }, make("h2", { textContent: name }), ...paragraphs(schema.description), table(["Field", "Kind", ""], rows));
}

async function start() {
  const place = document.getElementById("docs");
  const response = await fetch("openapi.json");
  const { info, paths, components } = await response.json();
  document.getElementById("version").textContent = info.version;
  const schemas = components?.schemas ?? {};
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => operation(path, method, described)));
  place.replaceChildren(
    ...paragraphs(info.description),
    ...operations,
    make("h2", { textContent: "Layouts" }),
    ...Object.entries(schemas).filter(([name]) => !/ValidationError/.test(name)).map(([name, schema]) => schemaCard(name, schema)),
  );
}

start().catch(() => {
  document.getElementById("docs").textContent = "The documentation cannot be loaded.";
});
