# Print a document, JSON or the part of YAML that seeds are made of, as lines "path=value". Paths are joined by
# dots, items of lists are numbered from 0. Values hold JSON's escapes (\n, \\), so each takes one line.
#
# The part of YAML: mappings and sequences by indentation, plain and quoted scalars of one line, block scalars
# (all taken as literal), comments of a whole line.

{ text = text $0 "\n" }

END {
    body = text
    while (body ~ /^[ \t]*(#[^\n]*)?\n/) sub(/^[ \t]*(#[^\n]*)?\n/, "", body)
    if (body ~ /^[ \t]*[{["]/) { text = body; next_token(); json("") } else yaml()
}

function escape(value) {
    gsub(/\\/, "\\\\", value)
    gsub(/\n/, "\\n", value)
    return value
}

# The text of a quoted JSON string; \n and \\ are left as they are.
function unquote(token) {
    token = substr(token, 2, length(token) - 2)
    gsub(/\\"/, "\"", token)
    gsub(/\\\//, "/", token)
    return token
}

function join(path, key) { return path == "" ? key : path "." key }

function next_token() {
    if (!match(text, /^[ \t\r\n]*("([^"\\]|\\.)*"|[][{}:,]|[^][{}:," \t\r\n]+)/)) { token = ""; return }
    token = substr(text, 1, RLENGTH)
    text = substr(text, RLENGTH + 1)
    sub(/^[ \t\r\n]+/, "", token)
}

# One value, at token; leaves token at its last one.
function json(path,   key, count) {
    if (token == "{") {
        for (next_token(); token != "}" && token != ""; next_token()) {
            if (token == ",") continue
            key = unquote(token)
            next_token() # the colon
            next_token()
            json(join(path, key))
        }
    } else if (token == "[") {
        count = 0
        for (next_token(); token != "]" && token != ""; next_token())
            if (token != ",") json(join(path, count++))
    } else print path "=" (token ~ /^"/ ? unquote(token) : token)
}

function yaml(   lines, count, i, line, indent) {
    count = split(text, lines, "\n")
    for (i = 1; i < count; i++) {
        line = lines[i]
        match(line, /^ */)
        indent = RLENGTH
        if (block != "" && (indent > block_parent || line ~ /^ *$/)) { block_line(line, indent); continue }
        block_end()
        if (line ~ /^ *(#.*)?$/ || line ~ /^---/) continue
        yaml_line(substr(line, indent + 1), indent)
    }
    block_end()
}

# A key's level is twice its indent, a dash's one more: a sequence may stand at the indent of its key.
function yaml_line(content, indent,   parent, key, rest) {
    if (content ~ /^- / || content == "-") {
        parent = parent_of(2 * indent + 1)
        push(2 * indent + 1, join(parent, items[parent]++ + 0))
        rest = substr(content, 2)
        match(rest, /^ */)
        if (rest ~ /[^ ]/) yaml_line(substr(rest, RLENGTH + 1), indent + 1 + RLENGTH)
    } else if (match(content, /^("[^"]*"|'[^']*'|[^ "':]+):( |$)/)) {
        key = substr(content, 1, RLENGTH)
        rest = substr(content, RLENGTH + 1)
        sub(/: ?$/, "", key)
        gsub(/^["']|["']$/, "", key)
        parent = parent_of(2 * indent)
        push(2 * indent, join(parent, key))
        yaml_value(rest, indent)
    } else yaml_value(content, indent)
}

function yaml_value(value, indent) {
    sub(/^ +/, "", value)
    sub(/ +$/, "", value)
    if (value ~ /^[|>][-+]?$/) {
        block = path_of[depth]
        block_parent = indent
        block_indent = -1
        block_chomp = value ~ /-/
        block_text = ""
    } else if (value ~ /^"/) print path_of[depth] "=" unquote(value)
    else if (value ~ /^'/) {
        value = substr(value, 2, length(value) - 2)
        gsub(/''/, "'", value)
        print path_of[depth] "=" escape(value)
    } else if (value != "") print path_of[depth] "=" escape(value)
}

function parent_of(level) {
    while (depth > 0 && level_of[depth] >= level) depth--
    return depth > 0 ? path_of[depth] : ""
}

function push(level, path) {
    depth++
    level_of[depth] = level
    path_of[depth] = path
}

function block_line(line, indent) {
    if (block_indent < 0) block_indent = indent
    block_text = block_text substr(line, block_indent + 1) "\n"
}

function block_end() {
    if (block != "") {
        sub(/\n+$/, block_chomp ? "" : "\n", block_text)
        print block "=" escape(block_text)
    }
    block = ""
}
