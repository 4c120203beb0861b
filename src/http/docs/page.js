// The reference of the API, made from /openapi.json. What that document says is only ever set as text.
"use strict";

const SOURCE = "/openapi.json";
// A server that answers at all does so in milliseconds; a phone far away needs seconds for 130 KB.
const PATIENCE_MS = 20_000;
// How far a table follows what is in what: further down it names the schema, which is there to be looked up.
const DEPTH_MAX = 6;

const byId = (id) => document.getElementById(id);

/** The document, once it is here. */
let api = {};

// ---- Elements ----

const isThere = (child) => child !== undefined && child !== null && child !== "";

const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (isThere(value)) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children.flat(Infinity).filter(isThere));
  return node;
};

const code = (text) => make("code", {}, String(text));

/** What stands between backticks is code. */
const prose = (text) => (text ?? "").split("`").map((part, index) => (index % 2 && part ? code(part) : part));

const paragraph = (text) => (text ? make("p", {}, prose(text)) : undefined);

/** The parts, with something between each two. */
const joined = (parts, between) => parts.flatMap((part, index) => (index ? [between, part] : [part]));

const heading = (level, text, id) =>
  make(
    "div",
    { class: "title" },
    make(`h${level}`, {}, prose(text)),
    make("a", { class: "anchor", href: `#${id}`, "aria-label": `Link to: ${text.replaceAll("`", "")}` }, "#"),
  );

// The roles are what tables have by themselves, and lose where rows are blocks.
const table = (label, heads, rows) =>
  make(
    "table",
    { role: "table", "aria-label": label },
    make(
      "thead",
      { role: "rowgroup" },
      make("tr", { role: "row" }, heads.map((head) => make("th", { role: "columnheader", scope: "col" }, head))),
    ),
    make("tbody", { role: "rowgroup" }, rows),
  );

const row = (id, heads, first, ...cells) =>
  make(
    "tr",
    { role: "row", id },
    make("th", { role: "rowheader", scope: "row" }, first),
    cells.map((cell, index) => {
      const isLast = index === cells.length - 1;
      return make("td", { role: "cell", "data-head": heads[index + 1], class: isLast ? "many" : "" }, cell);
    }),
  );

// ---- Copying ----

const copyInOldWay = (text) => {
  // The clipboard is for pages over TLS and of this machine: elsewhere what is selected is copied.
  const field = make("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  return isDone;
};

const copy = async (button, text) => {
  let isDone = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    isDone = copyInOldWay(text);
    button.focus();
  }
  const said = isDone ? "Copied" : "Not copied: select it";
  byId("page-copied").textContent = said;
  button.textContent = said;
  setTimeout(() => {
    byId("page-copied").textContent = "";
    button.textContent = "Copy";
  }, 2_000);
};

const copyButton = (what, text) => {
  const button = make("button", { class: "plain", type: "button", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", () => copy(button, text));
  return button;
};

const block = (caption, what, text) =>
  make(
    "div",
    { class: "block" },
    make("div", { class: "caption" }, make("span", {}, caption), copyButton(what, text)),
    make("pre", {}, text),
  );

// ---- The document ----

/** What a `$ref` of the document leads to. */
const target = (reference) => {
  const parts = reference.replace(/^#\//, "").split("/");
  return parts.reduce((node, part) => node?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], api) ?? {};
};

const nameOf = (reference) => reference.split("/").pop();

const resolved = (node) => {
  let found = node ?? {};
  for (let step = 0; found.$ref && step < DEPTH_MAX; step += 1) {
    found = target(found.$ref);
  }
  return found;
};

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

const examplesOf = (content) => {
  if (content.examples) {
    return Object.entries(content.examples).map(([name, example]) => {
      const { summary, value } = resolved(example);
      return { title: summary ?? "", name, value };
    });
  }
  return "example" in content ? [{ title: "", name: "example", value: content.example }] : [];
};

/** The example of a parameter: only where it says one for itself, or else where there must be some value. */
const exampleOf = (parameter) => {
  if ("example" in parameter) {
    return parameter.example;
  }
  if (!parameter.required) {
    return undefined;
  }
  const schema = resolved(parameter.schema);
  return schema.examples?.[0] ?? schema.enum?.[0] ?? schema.default ?? parameter.name.toUpperCase();
};

const slug = (text) => text.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");

const groupId = (name) => `group-${slug(name)}`;

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];

const operations = () =>
  Object.entries(api.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const parameters = new Map();
      for (const parameter of [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolved)) {
        parameters.set(`${parameter.in} ${parameter.name}`, parameter);
      }
      return {
        ...operation,
        id: operation.operationId ?? slug(`${method} ${path}`),
        method,
        path,
        title: operation.summary ?? path,
        group: operation.tags?.[0] ?? "Other",
        parameters: [...parameters.values()],
        wantsToken: (operation.security ?? api.security ?? []).some((one) => Object.keys(one).length > 0),
      };
    }),
  );

// ---- Schemas ----

const choicesOf = (schema) => schema.oneOf ?? schema.anyOf;

/** What it can be, but for null. */
const realChoices = (schema) => (choicesOf(schema) ?? []).filter((one) => one.type !== "null");

const schemaLink = (reference) => {
  const name = nameOf(reference);
  return make("a", { href: `#schema-${name}` }, name);
};

/** The type in words: a list of texts and links. */
const typeOf = (schema) => {
  if (schema.$ref) {
    return [schemaLink(schema.$ref)];
  }
  const choices = choicesOf(schema);
  if (choices) {
    return joined(choices.map(choiceOf), " or ").flat();
  }
  const types = [schema.type ?? (schema.properties ? "object" : "any value")].flat();
  return joined(
    types.map((type) => {
      if (type === "array" && schema.items) {
        return ["array of ", typeOf(schema.items)];
      }
      if (type === "object" && typeof schema.additionalProperties === "object") {
        return ["object whose values are ", typeOf(schema.additionalProperties)];
      }
      return type !== "null" && schema.format ? `${type} (${schema.format})` : type;
    }),
    " or ",
  ).flat(Infinity);
};

/** As `typeOf`, so that choices can be told from each other. */
const choiceOf = (schema) => {
  if (schema.enum) {
    return joined(schema.enum.map((value) => code(JSON.stringify(value))), " or ");
  }
  const names = Object.keys(schema.properties ?? {});
  return names.length > 0 ? [code(`{ ${names.join(", ")} }`)] : typeOf(schema);
};

const between = (least, most, one, many) => {
  const counted = (count) => `${count.toLocaleString("en")}${many ? ` ${count === 1 ? one : many}` : ""}`;
  if (least === undefined && most === undefined) {
    return undefined;
  }
  if (least === most) {
    return `exactly ${counted(most)}`;
  }
  if (most === undefined) {
    return `${counted(least)} or more`;
  }
  return least === undefined ? `${counted(most)} or less` : `${least.toLocaleString("en")} to ${counted(most)}`;
};

/** What a value must be like, line by line. */
const constraintsOf = (schema) => {
  const found = resolved(schema);
  const lines = [];
  const say = (...parts) => lines.push(parts);
  const choices = realChoices(found);
  if (choices.length === 1) {
    return constraintsOf(choices[0]);
  }
  choices.forEach((one, index) => say(`choice ${index + 1}: `, choiceOf(one)));
  if (found.enum) {
    say(found.enum.length > 1 ? "one of " : "always ", joined(found.enum.map(code), ", "));
  }
  if ("const" in found) {
    say("always ", code(found.const));
  }
  for (const line of [
    between(found.minimum, found.maximum),
    between(found.minLength, found.maxLength, "character", "characters"),
    between(found.minItems, found.maxItems, "item", "items"),
    between(found.minProperties, found.maxProperties, "field", "fields"),
  ]) {
    if (line) {
      say(line);
    }
  }
  if (found.exclusiveMinimum !== undefined) {
    say(`more than ${found.exclusiveMinimum}`);
  }
  if (found.exclusiveMaximum !== undefined) {
    say(`less than ${found.exclusiveMaximum}`);
  }
  if (found.multipleOf !== undefined) {
    say(`a multiple of ${found.multipleOf}`);
  }
  if (found.uniqueItems) {
    say("no item twice");
  }
  if (found.pattern) {
    say("matches ", code(found.pattern));
  }
  if (found.items && !choicesOf(resolved(found.items))) {
    for (const line of constraintsOf(found.items)) {
      say("each: ", line);
    }
  }
  if (found.default !== undefined) {
    say("default: ", code(shown(found.default)));
  }
  if (found.deprecated) {
    say("deprecated: it will go");
  }
  return lines;
};

const exampleLine = (value) => (value === undefined ? [] : [["example: ", code(shown(value))]]);

const described = (text, lines) => [
  paragraph(text),
  lines.map((line) => make("p", { class: text ? "soft" : "" }, line)),
];

const FIELD_HEADS = ["Field", "Type", "Required", "Meaning and limits"];

const fieldRow = (path, schema, required) => {
  const cut = path.lastIndexOf(".") + 1;
  const [before, last] = [path.slice(0, cut), path.slice(cut)];
  const name = make("code", {}, make("span", { class: "path" }, before), make("span", { class: "last" }, last));
  const found = resolved(schema);
  const lines = [...constraintsOf(schema), ...exampleLine(found.examples?.[0])];
  const [only, other] = realChoices(found);
  const text = schema.description ?? found.description ?? found.items?.description ?? (other ? "" : resolved(only).description);
  return row("", FIELD_HEADS, name, typeOf(schema), required, described(text, lines));
};

/** A row for each field in it, and in those. */
const fieldRows = (schema, path = "", seen = [], choice = "") => {
  if (schema.$ref) {
    const isRound = seen.includes(schema.$ref);
    return isRound ? [] : fieldRows(target(schema.$ref), path, [...seen, schema.$ref], choice);
  }
  if (path.split(".").length > DEPTH_MAX) {
    return [];
  }
  const rows = [];
  const choices = realChoices(schema);
  choices.forEach((one, index) => {
    const which = choices.length > 1 ? `choice ${index + 1} of ${choices.length}` : choice;
    rows.push(...fieldRows(one, path, seen, which));
  });
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const at = path ? `${path}.${name}` : name;
    const required = schema.required?.includes(name) ? "yes" : "no";
    rows.push(fieldRow(at, field, choice && required === "yes" ? `in ${choice}` : required), ...fieldRows(field, at, seen));
  }
  if (schema.items) {
    rows.push(...fieldRows(schema.items, `${path}[]`, seen));
  }
  if (typeof schema.additionalProperties === "object") {
    rows.push(...fieldRows(schema.additionalProperties, path ? `${path}.NAME` : "NAME", seen));
  }
  return rows;
};

/** All about a schema but its name. `isNamed`: where it stands itself, its own name says nothing. */
const schemaParts = (label, schema, isNamed) => {
  const found = resolved(schema);
  const rows = fieldRows(schema);
  const lines = constraintsOf(schema);
  const isClosed = found.additionalProperties === false;
  const choices = realChoices(found).length;
  const isSpelledOut = choices > 1 && (isNamed || !schema.$ref);
  const type = isSpelledOut ? `one of ${choices} choices` : typeOf(isNamed ? found : schema);
  return [
    make("p", {}, "Type: ", type, isClosed ? "; no other fields than these" : "", "."),
    paragraph(found.description),
    lines.map((line) => make("p", { class: "soft" }, line)),
    rows.length > 0 ? table(label, FIELD_HEADS, rows) : undefined,
  ];
};

// ---- An operation ----

const PARAMETER_HEADS = ["Name", "Where", "Type", "Required", "Meaning and limits"];

const parameterTable = ({ title, parameters }) =>
  table(
    `Parameters of: ${title}`,
    PARAMETER_HEADS,
    parameters.map((parameter) => {
      const schema = parameter.schema ?? {};
      const example = parameter.example ?? resolved(schema).examples?.[0];
      return row(
        "",
        PARAMETER_HEADS,
        make("code", {}, make("span", { class: "last" }, parameter.name)),
        parameter.in,
        typeOf(schema),
        parameter.required ? "yes" : "no",
        described(parameter.description ?? resolved(schema).description, [
          ...constraintsOf(schema),
          ...exampleLine(example),
        ]),
      );
    }),
  );

/** For a shell: what is between single quotes means nothing to it. */
const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

const curl = ({ method, path, parameters, wantsToken, responses }, media, body) => {
  const values = parameters.map((parameter) => [parameter, exampleOf(parameter)]).filter(([, value]) => value !== undefined);
  const of = (where) => values.filter(([parameter]) => parameter.in === where);
  let filled = path;
  for (const [{ name }, value] of of("path")) {
    filled = filled.replace(`{${name}}`, encodeURIComponent(value));
  }
  const isStream = Object.values(responses ?? {}).some((response) => resolved(response).content?.["text/event-stream"]);
  const query = of("query");
  // With data it would be a POST: -G puts them into the address.
  let first = `curl -s${isStream ? "N" : ""}${query.length > 0 ? "G" : ""}`;
  if (method !== "get" && !(method === "post" && body !== undefined)) {
    first += ` -X ${method.toUpperCase()}`;
  }
  const lines = [`${first} ${quoted(location.origin + filled)}`];
  lines.push(...query.map(([{ name }, value]) => `--data-urlencode ${quoted(`${name}=${value}`)}`));
  if (wantsToken) {
    lines.push('-H "Authorization: Bearer $TOKEN"');
  }
  lines.push(...of("header").map(([{ name }, value]) => `-H ${quoted(`${name}: ${value}`)}`));
  if (body !== undefined) {
    lines.push(`-H ${quoted(`Content-Type: ${media}`)}`, `-d ${quoted(JSON.stringify(body))}`);
  }
  return lines.join(" \\\n  ");
};

const mediaTypes = (content) => joined(Object.keys(content).map(code), " or ");

const bodyParts = (operation) => {
  const body = resolved(operation.requestBody);
  const content = body.content ?? {};
  const schema = Object.values(content)[0]?.schema ?? {};
  const json = Object.keys(content).find((media) => media.endsWith("json"));
  const examples = json ? examplesOf(content[json]) : [];
  return [
    make("h4", {}, "Body"),
    make("p", {}, body.required ? "Required, as " : "Optional, as ", mediaTypes(content), "."),
    paragraph(body.description),
    schemaParts(`Body of: ${operation.title}`, schema),
    make("h4", {}, examples.length > 1 ? "Examples" : "Example"),
    examples.map(({ title, name, value }, index) => {
      const parts = [
        block(json, `the body: ${title || name}`, shown(value)),
        block("curl", `the command: ${title || name}`, curl(operation, json, value)),
      ];
      if (examples.length === 1) {
        return [paragraph(title), parts];
      }
      return make("details", index === 0 ? { open: "open" } : {}, make("summary", {}, prose(title || name)), parts);
    }),
    examples.length === 0 ? block("curl", "the command", curl(operation)) : undefined,
  ];
};

const HEADER_HEADS = ["Header", "Type", "Meaning and limits"];

const headerTable = (status, headers) =>
  table(
    `Headers of the answer ${status}`,
    HEADER_HEADS,
    Object.entries(headers).map(([name, header]) => {
      const { description, schema = {} } = resolved(header);
      return row("", HEADER_HEADS, code(name), typeOf(schema), described(description, constraintsOf(schema)));
    }),
  );

const contentParts = (label, content) => {
  const examples = Object.entries(content).flatMap(([media, one]) =>
    examplesOf(one).map((example) => ({ media, ...example })),
  );
  const schema = Object.values(content)[0]?.schema;
  const rows = schema ? schemaParts(`Fields of: ${label}`, schema) : [];
  const type = schema ? make("span", {}, typeOf(schema)).textContent : "";
  return [
    schema ? make("details", {}, make("summary", {}, `What is in it: ${type}`), rows) : undefined,
    examples.map(({ title, name, media, value }, index) =>
      make(
        "details",
        index === 0 ? { open: "open" } : {},
        make("summary", {}, "Example", title ? ": " : "", prose(title)),
        block(media, `the answer: ${title || name}`, shown(value)),
      ),
    ),
  ];
};

const answer = (operation, status, response) => {
  const { description, headers, content = {} } = resolved(response);
  const medias = Object.keys(content).length > 0 ? [" ", make("span", { class: "soft" }, mediaTypes(content))] : [];
  const isElse = status === "default";
  const label = `${operation.title}, ${status}`;
  // What many operations answer alike is shown once.
  const parts = response.$ref
    ? make("p", {}, "All errors look alike: ", make("a", { href: "#errors" }, "what is in them, and what to do about each"), ".")
    : [headers ? headerTable(status, headers) : undefined, contentParts(label, content)];
  return make(
    "div",
    { class: "answer" },
    make("h5", {}, make("b", {}, isElse ? "Anything else" : status), prose(description), medias),
    parts,
  );
};

const operationPart = (operation) => {
  const { id, method, path, title, description, wantsToken, parameters, deprecated } = operation;
  const scheme = Object.values(api.components?.securitySchemes ?? {})[0]?.scheme ?? "access";
  return make(
    "section",
    { class: "card", id, "data-nav": id },
    heading(3, title, id),
    make(
      "div",
      { class: "address" },
      make("span", { class: `method ${method}` }, method.toUpperCase()),
      code(path),
      copyButton(`the path ${path}`, path),
    ),
    make(
      "p",
      { class: "facts" },
      make("span", {}, "Operation: ", code(id)),
      make("span", {}, wantsToken ? `Needs a token (${scheme})` : "Needs no token"),
      deprecated ? make("span", {}, "Deprecated: it will go") : undefined,
    ),
    paragraph(description),
    parameters.length > 0 ? [make("h4", {}, "Parameters"), parameterTable(operation)] : undefined,
    operation.requestBody
      ? bodyParts(operation)
      : [make("h4", {}, "Example"), block("curl", "the command", curl(operation))],
    make("h4", {}, "Answers"),
    Object.entries(operation.responses ?? {}).map(([status, response]) => answer(operation, status, response)),
  );
};

// ---- The rest of the page ----

const firstExample = (operation) => {
  const content = resolved(operation?.requestBody).content ?? {};
  const json = Object.keys(content).find((media) => media.endsWith("json"));
  const value = json ? examplesOf(content[json])[0]?.value : undefined;
  return value && curl(operation, json, value);
};

/** How to get a token: without one nearly everything is refused. */
const beginning = (all) => {
  const find = (id) => all.find((operation) => operation.id === id);
  const [register, signIn, list] = ["register", "signIn", "listTasks"].map(find);
  const [registering, signingIn] = [register, signIn].map(firstExample);
  if (!registering || !signingIn || !list) {
    return undefined;
  }
  const taken = `TOKEN=$(${signingIn} \\\n  | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')`;
  const link = (operation, text) => make("a", { href: `#${operation.id}` }, text);
  return make(
    "section",
    { class: "card", id: "begin", "data-nav": "begin" },
    heading(2, "To begin", "begin"),
    make("p", {}, link(register, "Make an account"), ", with an address and a password of your own:"),
    block("curl", "the command that makes an account", registering),
    make("p", {}, link(signIn, "Sign in"), ", and keep the access token where the other commands of this page look for it:"),
    block("curl", "the command that signs in", taken),
    make("p", {}, "Ask for something, such as ", link(list, "the tasks"), ":"),
    block("curl", "the command that asks for the tasks", curl({ ...list, parameters: [] })),
    make("p", {}, prose("Whoever has a token already sets `TOKEN` to it: it goes into the header `Authorization`.")),
  );
};

const CODE_HEADS = ["Number", "HTTP status", "Name", "What to do"];

const codeRows = () => {
  const name = api.components?.schemas?.Problem?.properties?.name ?? {};
  return (name.enum ?? []).map((one) => {
    const text = name["x-enumDescriptions"]?.[one] ?? "";
    const [, number = "", status = "", sentence = text] = /^(\d+), HTTP (\d+): (.*)$/s.exec(text) ?? [];
    const id = `error-${one}`;
    return row(id, CODE_HEADS, number, status, make("a", { href: `#${id}` }, one), prose(sentence));
  });
};

const errorsPart = () => {
  const rows = codeRows();
  const codes = table("Codes of errors", CODE_HEADS, rows);
  codes.id = "errors-codes";
  return make(
    "section",
    {},
    make("div", { id: "errors", "data-nav": "errors" }, heading(2, "Errors", "errors")),
    Object.entries(api.components?.responses ?? {}).map(([name, response]) =>
      make(
        "section",
        { class: "card", id: `answer-${name}` },
        heading(3, "What an error looks like", `answer-${name}`),
        paragraph(response.description),
        contentParts(name, response.content ?? {}),
      ),
    ),
    make("section", { class: "card", id: "codes" }, heading(3, "Codes", "codes"), codes),
  );
};

const schemaPart = ([name, schema]) => {
  const id = `schema-${name}`;
  const parts = schemaParts(`Fields of ${name}`, schema, true);
  return make("section", { class: "card", id, "data-nav": id }, heading(3, name, id), parts);
};

const introduction = () => {
  const { info = {}, openapi } = api;
  const facts = [
    info.version && `Version ${info.version}`,
    openapi && `OpenAPI ${openapi}`,
    info.license?.name && `Licence ${info.license.name}`,
  ];
  return [
    make(
      "p",
      { class: "facts" },
      facts.filter(Boolean).map((fact) => make("span", {}, fact)),
      make("a", { href: SOURCE }, "The description as a document"),
    ),
    paragraph(info.description),
  ];
};

const groups = (all) => {
  const named = new Map((api.tags ?? []).map(({ name, description }) => [name, { name, description, operations: [] }]));
  for (const operation of all) {
    if (!named.has(operation.group)) {
      named.set(operation.group, { name: operation.group, operations: [] });
    }
    named.get(operation.group).operations.push(operation);
  }
  return [...named.values()].filter(({ operations: own }) => own.length > 0);
};

const groupPart = ({ name, description, operations: own }) => {
  const id = groupId(name);
  return make(
    "section",
    { "data-group": id },
    make("div", { id, "data-nav": id }, heading(2, name, id)),
    paragraph(description),
    own.map(operationPart),
  );
};

// ---- Navigation ----

const navLink = (id, ...parts) => make("a", { href: `#${id}`, "data-to": id }, parts);

const navGroup = (id, title, items) =>
  make("li", { class: "group", "data-group": id }, navLink(id, title), items.length > 0 ? make("ul", {}, items) : undefined);

const navigation = (all) => [
  byId("begin") ? navGroup("begin", "To begin", []) : undefined,
  groups(all).map(({ name, operations: own }) =>
    navGroup(
      groupId(name),
      name,
      own.map(({ id, method, title }) =>
        make(
          "li",
          { "data-operation": id },
          navLink(id, make("span", { class: `method ${method}` }, method.toUpperCase()), make("span", {}, prose(title))),
        ),
      ),
    ),
  ),
  navGroup("errors", "Errors", []),
  navGroup(
    "schemas",
    "Schemas",
    Object.keys(api.components?.schemas ?? {}).map((name) => make("li", {}, navLink(`schema-${name}`, make("span", {}, name)))),
  ),
];

let current = "";

/** Marks in the menu what is at the top of the window. */
const follow = () => {
  // As far down as what a link leads to, and a line more.
  const line = Number.parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) + 24;
  let at = "";
  for (const part of document.querySelectorAll("[data-nav]")) {
    const { top, height } = part.getBoundingClientRect();
    if (height > 0 && top > line) {
      break;
    }
    at = height > 0 ? part.dataset.nav : at;
  }
  if (at === current) {
    return;
  }
  current = at;
  const bar = byId("page-find").offsetHeight;
  for (const link of byId("page-links").querySelectorAll("a")) {
    if (link.dataset.to !== at) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "location");
    const menu = byId("page-menu");
    const [inside, outside] = [link.getBoundingClientRect(), menu.getBoundingClientRect()];
    if (inside.top < outside.top + bar || inside.bottom > outside.bottom) {
      // Only the menu: the page is where its reader wants it.
      menu.scrollTop += inside.top - outside.top - outside.height / 3;
    }
  }
};

let isFollowing = false;

const followSoon = () => {
  if (!isFollowing) {
    isFollowing = true;
    requestAnimationFrame(() => {
      isFollowing = false;
      follow();
    });
  }
};

const fold = (isOpen) => {
  byId("page-menu").classList.toggle("is-open", isOpen);
  byId("page-fold").setAttribute("aria-expanded", String(isOpen));
  byId("page-fold").textContent = isOpen ? "Close" : "Menu";
};

let found = [];

/** Leaves the operations that have all these words in the path, the summary or the name. */
const filter = () => {
  const words = byId("page-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let [count, first] = [0, undefined];
  const full = new Set();
  for (const { id, text, group } of found) {
    const fits = words.every((word) => text.includes(word));
    const part = byId(id);
    part.hidden = !fits;
    byId("page-links").querySelector(`[data-operation="${CSS.escape(id)}"]`).hidden = !fits;
    if (fits) {
      first ??= part;
      count += 1;
      full.add(groupId(group));
    }
  }
  for (const group of document.querySelectorAll('[data-group^="group-"]')) {
    group.hidden = !full.has(group.dataset.group);
  }
  byId("page-found").textContent = words.length > 0 ? `${count} of ${found.length} operations` : "";
  followSoon();
  return words.length > 0 ? first : undefined;
};

/** Goes to what the address names, also if it is filtered away. */
const arrive = () => {
  const part = byId(location.hash.slice(1));
  document.querySelector(".is-here")?.classList.remove("is-here");
  if (!part) {
    return;
  }
  // Not `:target`: that is settled before there is anything on the page.
  part.classList.add("is-here");
  if (part.closest("[hidden]")) {
    byId("page-search").value = "";
    filter();
  }
  part.scrollIntoView();
  followSoon();
};

const keys = (event) => {
  const search = byId("page-search");
  const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    fold(true);
    search.focus();
    search.select();
  } else if (event.key === "Enter" && event.target === search) {
    const first = filter();
    if (first) {
      fold(false);
      location.hash = first.id;
      first.querySelector("a").focus({ preventScroll: true });
    }
  } else if (event.key === "Escape" && search.value) {
    search.value = "";
    filter();
  } else if (event.key === "Escape" && byId("page-menu").classList.contains("is-open")) {
    fold(false);
    byId("page-fold").focus();
  }
};

// ---- Loading ----

const show = () => {
  const all = operations();
  const title = `${api.info?.title ?? "The"} API`;
  document.title = title;
  byId("page-title").textContent = title;
  // In the order of the menu.
  const inOrder = groups(all);
  byId("page-reference").replaceChildren(
    ...[introduction(), beginning(all), inOrder.map(groupPart), errorsPart()].flat(Infinity).filter(isThere),
    make(
      "section",
      {},
      make("div", { id: "schemas", "data-nav": "schemas" }, heading(2, "Schemas", "schemas")),
      Object.entries(api.components?.schemas ?? {}).map(schemaPart),
    ),
  );
  byId("page-links").replaceChildren(...navigation(all).flat(Infinity).filter(isThere));
  found = all.map(({ id, method, path, title: summary, group }) => ({
    id,
    group,
    text: `${method} ${path} ${summary} ${id}`.toLowerCase(),
  }));
  byId("page-menu").hidden = byId("page-fold").hidden = false;
  filter();
  arrive();
  follow();
};

const load = async () => {
  byId("page-failure").hidden = true;
  byId("page-loading").hidden = false;
  try {
    const got = await fetch(SOURCE, { signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => {
      throw new Error("The server does not answer. See whether it runs and whether this machine reaches it, then try again.");
    });
    if (got.status === 429) {
      throw new Error("The server was asked too much at once. Wait for some seconds, then try again.");
    }
    if (!got.ok) {
      throw new Error(`The server answered with status ${got.status}. Try again; if that does not help, its log says why.`);
    }
    api = await got.json().catch(() => {
      throw new Error("What came is cut off or not the document. Try again; a proxy on the way may have changed it.");
    });
    try {
      show();
    } catch (error) {
      throw new Error(`It came, but this page cannot show it (${error.message}). Read the document itself.`);
    }
  } catch (error) {
    byId("page-reason").textContent = error.message;
    byId("page-failure").hidden = false;
  } finally {
    byId("page-loading").hidden = true;
  }
};

byId("page-again").addEventListener("click", async () => {
  await load();
  // The button is gone, or it is where it was.
  (byId("page-failure").hidden ? byId("page-content") : byId("page-again")).focus({ preventScroll: true });
});
byId("page-fold").addEventListener("click", () => fold(byId("page-fold").getAttribute("aria-expanded") !== "true"));
byId("page-links").addEventListener("click", (event) => {
  if (event.target.closest("a")) {
    fold(false);
  }
});
byId("page-search").addEventListener("input", () => filter()?.scrollIntoView());
// Whoever goes on with the keyboard behind the folded menu would not see where they are.
byId("page-content").addEventListener("focusin", () => fold(false));
document.addEventListener("keydown", keys);
window.addEventListener("scroll", followSoon, { passive: true });
window.addEventListener("resize", followSoon, { passive: true });
window.addEventListener("hashchange", arrive);
load();
