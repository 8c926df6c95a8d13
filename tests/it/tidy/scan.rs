//! A scanner of Rust text that is just good enough for the rules of `tidy`.
//!
//! It knows comments, strings, characters, braces, `use` trees and `#[cfg(test)]` items, and no
//! types. It promises to keep line numbers. Deliberately absent: macro expansion and name
//! resolution; a rule that needs them belongs to the compiler or clippy.

/// A function found by [`functions`]: its name and how many lines lie between its braces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) body_lines: usize,
}

/// The text with comments and the insides of strings and characters blanked out, line for line.
pub(super) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if !follows_word(&chars, at) || literal_prefix(&chars, at) => {
                raw_string_end(&chars, at).unwrap_or(at)
            }
            '\'' => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for &blanked in &chars[at..end] {
            out.push(if blanked == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out
}

fn line_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r##"…"##` that starts at `start`, if one does (`r#type` does not).
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let close = |at: usize| {
        chars[at] == '"' && (1..=hashes).all(|after| chars.get(at + after) == Some(&'#'))
    };
    let quote = (open + 1..chars.len()).find(|&at| close(at));
    Some(quote.map_or(chars.len(), |at| at + 1 + hashes))
}

/// The end of the character literal at `start`; `None` when the quote begins a lifetime.
fn char_end(chars: &[char], start: usize) -> Option<usize> {
    if chars.get(start + 1) == Some(&'\\') {
        // The escaped character itself may be a quote.
        let rest = chars.get(start + 3..)?;
        return Some(start + 4 + rest.iter().position(|&c| c == '\'')?);
    }
    (chars.get(start + 2) == Some(&'\'')).then_some(start + 3)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && is_word(chars[at - 1])
}

/// Whether the `r` at `at` is the second letter of `br"` or `cr"`.
fn literal_prefix(chars: &[char], at: usize) -> bool {
    matches!(chars[at - 1], 'b' | 'c') && !follows_word(chars, at - 1)
}

/// Splits code (see [`code`]) in two of the same lines: what ships, and what `#[cfg(test)]` marks.
pub(super) fn split_tests(code: &str) -> (String, String) {
    let (mut ships, mut tests) = (String::new(), String::new());
    let mut rest = code;
    while let Some(start) = find_test_mark(rest) {
        let end = start + item_len(&rest[start..]);
        ships.push_str(&rest[..start]);
        tests.push_str(&blank(&rest[..start]));
        ships.push_str(&blank(&rest[start..end]));
        tests.push_str(&rest[start..end]);
        rest = &rest[end..];
    }
    ships.push_str(rest);
    tests.push_str(&blank(rest));
    (ships, tests)
}

fn find_test_mark(code: &str) -> Option<usize> {
    ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test"]
        .iter()
        .filter_map(|mark| code.find(mark))
        .min()
}

fn blank(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { c } else { ' ' })
        .collect()
}

/// The bytes from an attribute to the end of the item behind it: its `;` or its closing brace.
fn item_len(item: &str) -> usize {
    let (mut round, mut curly) = (0i32, 0i32);
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            '{' => curly += 1,
            '}' => curly -= 1,
            _ => {}
        }
        if (c == ';' || c == '}') && round == 0 && curly == 0 {
            return at + 1;
        }
    }
    item.len()
}

/// Every function with a body, in order, nested ones too.
pub(super) fn functions(code: &str) -> Vec<Function> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let named = tokens
            .get(at + 1)
            .filter(|next| next.text.starts_with(is_word));
        let (true, Some(name)) = (tokens[at].text == "fn", named) else {
            continue;
        };
        let Some(open) = body_open(&tokens, at) else {
            continue;
        };
        let close = matching_brace(&tokens, open);
        found.push(Function {
            name: name.text.to_owned(),
            line: tokens[at].line,
            body_lines: (tokens[close].line - tokens[open].line).saturating_sub(1),
        });
    }
    found
}

fn body_open(tokens: &[Token<'_>], fn_at: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(fn_at) {
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(at),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

/// Every path with at least two segments, `use` trees written out: `a::{b, c::d}` gives
/// `[a, b]` and `[a, c, d]`. A path that continues another is not listed by itself.
pub(super) fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let starts = tokens[at].text.starts_with(is_word)
            && !is_keyword(tokens[at].text)
            && tokens.get(at + 1).is_some_and(|next| next.text == "::")
            && (at == 0 || tokens[at - 1].text != "::" || !continues(&tokens, at));
        if starts && !inside_use_group(&tokens, at) {
            walk_path(&tokens, at, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Whether the `::` before `at` follows a segment (and is not the leading `::` of `::std::fs`).
fn continues(tokens: &[Token<'_>], at: usize) -> bool {
    let Some(before) = at.checked_sub(2).map(|before| tokens[before].text) else {
        return false;
    };
    before == ">" || (before.starts_with(is_word) && !is_keyword(before))
}

/// Words before a path, not of it.
fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "as" | "dyn" | "else" | "impl" | "in" | "mut" | "return" | "use" | "where"
    )
}

/// Whether `at` stands in the braces of a `use` tree, whose own walk lists it.
fn inside_use_group(tokens: &[Token<'_>], at: usize) -> bool {
    let mut depth = 0;
    for before in (0..at).rev() {
        match tokens[before].text {
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => return before > 0 && tokens[before - 1].text == "::",
            ";" if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

/// Walks one path or tree from `at`, records it, and returns the index behind it.
fn walk_path(
    tokens: &[Token<'_>],
    mut at: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let depth = prefix.len();
    while let Some(token) = tokens.get(at) {
        if token.text == "{" && depth < prefix.len() {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                let next = walk_path(tokens, at, prefix, found);
                at = next.max(at + 1);
            }
            prefix.truncate(depth);
            return at + 1;
        }
        if !token.text.starts_with(is_word) && token.text != "*" {
            break;
        }
        prefix.push(token.text.to_owned());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    if prefix.len() > 1 && prefix.len() > depth {
        found.push((tokens[at - 1].line, prefix.clone()));
    }
    prefix.truncate(depth);
    // `x as y` inside a group: step over the new name.
    while tokens.get(at).is_some_and(|token| token.text == "as") {
        at += 2;
    }
    at
}

/// A word, `::`, an arrow, or a single other character, with its line from 1.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if ["::", "->", "=>"].iter().any(|pair| rest.starts_with(pair)) {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token {
                text: &rest[..len],
                line: index + 1,
            });
            rest = rest[len..].trim_start();
        }
    }
    found
}

/// The lines (from 1) where `needle` stands by itself, not as part of a longer word.
pub(super) fn lines_with(text: &str, needle: &str) -> Vec<usize> {
    let inside = |line: &str, at: usize| {
        let before = line[..at].chars().next_back().is_some_and(is_word);
        let after = line[at + needle.len()..]
            .chars()
            .next()
            .is_some_and(is_word);
        (before && needle.starts_with(is_word)) || (after && needle.ends_with(is_word))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.match_indices(needle).any(|(at, _)| !inside(line, at)))
        .map(|(index, _)| index + 1)
        .collect()
}

#[test]
fn code_keeps_lines_and_blanks_text() {
    let check = |text: &str, expected: &str| assert_eq!(code(text), expected, "of {text:?}");
    check("a // b\nc", "a     \nc");
    check("a /* { /* } */ \n*/ b", "a              \n   b");
    check(r#"f("}\"{") + 1"#, "f(      ) + 1");
    check("r#\"a\"b\"# x", "         x");
    check("br\"\\\" x", "b     x");
    check("r#type::x", "r#type::x");
    check("bar\"x\"", "bar   ");
    check("'{' '\\'' '\\u{7d}' x", "                  x");
    check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
    check("\"a\nb\" c", "  \n   c");
}

#[test]
fn tests_are_split_from_what_ships() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}";
    let (ships, tests) = split_tests(text);
    assert!(ships.contains("fn a") && ships.contains("fn c") && !ships.contains("fn b"));
    assert!(tests.contains("fn b") && !tests.contains("fn c"));
    assert_eq!(ships.lines().count(), text.lines().count());
    let (ships, _) = split_tests("#[cfg(test)]\nmod tests;\nfn a() {}");
    assert!(ships.contains("fn a"));
}

#[test]
fn functions_are_measured_by_their_bodies() {
    let text = "fn a() -> [u8; 2] {\n1\n2\n}\ntrait T { fn b(); }\nfn c() { d(|| {\n}) }\n\
                type F = fn(u8);\nfn e(f: fn(u8) -> u8)\nwhere X: Y,\n{\n\n}";
    let seen: Vec<_> = functions(text)
        .into_iter()
        .map(|f| (f.name, f.body_lines))
        .collect();
    let expected = [("a", 2), ("c", 0), ("e", 1)];
    assert_eq!(seen, expected.map(|(name, lines)| (name.to_owned(), lines)));
}

#[test]
fn use_trees_are_written_out() {
    let check = |text: &str, expected: &[&str]| {
        let seen: Vec<_> = paths(text)
            .into_iter()
            .map(|(_, path)| path.join("::"))
            .collect();
        assert_eq!(seen, expected, "of {text:?}");
    };
    check("use crate::a::b;", &["crate::a::b"]);
    check(
        "use crate::{a::{self, b as x}, c, d::*};\nuse e::f;",
        &[
            "crate::a::self",
            "crate::a::b",
            "crate::c",
            "crate::d::*",
            "e::f",
        ],
    );
    check("use ::a::b;", &["a::b"]);
    check(
        "fn f(x: crate::a::B<c::D>) -> ::std::fs::File { g::h(i) }",
        &["crate::a::B", "c::D", "std::fs::File", "g::h"],
    );
    check("pub(crate) fn f() { x.y() }", &[]);
    check("Vec::<u8>::new()", &[]);
}

#[test]
fn needles_match_whole_words_only() {
    assert_eq!(lines_with("a\nunsafe_code\nunsafe {", "unsafe"), [3]);
    assert_eq!(lines_with("ExitCode::A\nCode::B", "Code::"), [2]);
    assert_eq!(lines_with("x.unwrap()\nx.unwrap_or()", ".unwrap()"), [1]);
}
