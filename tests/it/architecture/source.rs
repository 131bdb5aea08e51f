//! Reads Rust far enough to know what it names: its words without comments and literals, its modules, and the paths it
//! uses, each with the module it stands in.
//!
//! It is no parser: what is between the words does not matter to the rules. A path that is told wrongly would be a rule
//! that does not hold, so the reading has tests of its own.

/// A source file.
pub(super) struct Source {
    /// From the top of the repository, with `/`.
    pub(super) path: String,
    /// What is written there.
    pub(super) text: String,
}

/// A word, a `::` or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A path as the compiler would read it: its first segment is `crate` or the name of something foreign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// Whether it is compiled for tests only.
    pub(super) in_tests: bool,
}

/// A module that a file declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// From the crate's root.
    pub(super) module: Vec<String>,
    pub(super) line: usize,
    pub(super) in_tests: bool,
}

/// What the rules look at.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) paths: Vec<Path>,
    pub(super) modules: Vec<Declared>,
}

impl Source {
    /// The module of a file below `src`: `src/vault/seal.rs` is `vault::seal`, `src/lib.rs` the root.
    pub(super) fn module(&self) -> Vec<String> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        if inner == "lib" { Vec::new() } else { inner.split('/').map(str::to_owned).collect() }
    }

    /// Its words.
    pub(super) fn tokens(&self) -> Vec<Token> {
        Words { rest: &self.text, line: 1 }.collect()
    }

    /// Its paths and modules.
    pub(super) fn read(&self) -> Reading {
        let mut reader = Reader {
            tokens: self.tokens(),
            at: 0,
            module: self.module(),
            blocks: Vec::new(),
            pending: None,
            found: Reading::default(),
        };
        while reader.at < reader.tokens.len() {
            reader.step();
        }
        reader.found
    }
}

struct Words<'s> {
    rest: &'s str,
    line: usize,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Words<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    /// The length of what starts here and holds no words: white space, a comment, a text, a character, a lifetime.
    fn silence(&self) -> Option<usize> {
        let rest = self.rest;
        let first = rest.chars().next()?;
        if first.is_whitespace() {
            return Some(first.len_utf8());
        }
        if rest.starts_with("//") {
            return Some(rest.find('\n').unwrap_or(rest.len()));
        }
        if rest.starts_with("/*") {
            return Some(block_comment(rest));
        }
        let unprefixed = rest.trim_start_matches(['b', 'c', 'r']);
        let prefix = rest.len() - unprefixed.len();
        let raw = rest[..prefix].ends_with('r');
        match unprefixed.chars().next() {
            Some('"' | '#') if raw && prefix <= 2 => raw_text(unprefixed).map(|length| prefix + length),
            Some('"') if !raw && prefix <= 1 => Some(prefix + quoted(unprefixed, '"')),
            Some('\'') if !raw && prefix <= 1 => Some(prefix + character_or_lifetime(unprefixed)),
            _ => None,
        }
    }
}

impl Iterator for Words<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        while let Some(length) = self.silence() {
            self.skip(length);
        }
        let rest = self.rest.strip_prefix("r#").unwrap_or(self.rest);
        let raw = self.rest.len() - rest.len();
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let length = match rest.chars().next()? {
            _ if word > 0 => raw + word,
            _ if rest.starts_with("::") => 2,
            other => other.len_utf8(),
        };
        let token = Token { text: self.rest[if word > 0 { raw } else { 0 }..length].to_owned(), line: self.line };
        self.skip(length);
        Some(token)
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// `#"…"#` with any number of `#`; `None` where it is a raw name.
fn raw_text(text: &str) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let inner = text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(hashes + 1 + inner.find(&end).map_or(inner.len(), |at| at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
        _ => 1 + text[1..].find(|c| !is_word(c)).unwrap_or(text.len() - 1),
    }
}

/// A block that a brace opened.
struct Block {
    is_module: bool,
    in_tests: bool,
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    module: Vec<String>,
    blocks: Vec<Block>,
    /// The depth at which `#[cfg(test)]` stood before an item that is not over yet.
    pending: Option<usize>,
    found: Reading,
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

impl Reader {
    fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn is_name(&self, at: usize) -> bool {
        const WORDS: [&str; 12] =
            ["as", "in", "return", "dyn", "impl", "for", "mut", "else", "match", "if", "use", "where"];
        let word = self.word(at);
        word.starts_with(is_word) && !WORDS.contains(&word)
    }

    fn in_tests(&self) -> bool {
        self.pending.is_some() || self.blocks.iter().any(|block| block.in_tests)
    }

    fn step(&mut self) {
        let depth = self.blocks.len();
        match self.word(self.at) {
            "#" if (0..CFG_TEST.len()).all(|i| self.word(self.at + i) == CFG_TEST[i]) => {
                self.pending = Some(depth);
                self.at += CFG_TEST.len();
            }
            "use" if self.word(self.at + 1) != "<" => {
                self.at += 1;
                self.tree(&[]);
            }
            "mod" if self.is_name(self.at + 1) && matches!(self.word(self.at + 2), ";" | "{") => self.module(),
            "{" | "(" | "[" => self.open(false),
            "}" | ")" | "]" => self.close(),
            ";" => {
                self.pending = self.pending.filter(|pending| *pending != depth);
                self.at += 1;
            }
            _ if self.is_name(self.at) && self.word(self.at + 1) == "::" && !self.continues() => self.path(),
            _ => self.at += 1,
        }
    }

    /// Whether the word here goes on with a path that began before it.
    fn continues(&self) -> bool {
        self.at >= 2 && self.word(self.at - 1) == "::" && (self.is_name(self.at - 2) || self.word(self.at - 2) == ">")
    }

    fn open(&mut self, is_module: bool) {
        let begins = self.word(self.at) == "{" && self.pending == Some(self.blocks.len());
        if begins {
            self.pending = None;
        }
        self.blocks.push(Block { is_module, in_tests: begins });
        self.at += 1;
    }

    fn close(&mut self) {
        if self.blocks.pop().is_some_and(|block| block.is_module) {
            self.module.pop();
        }
        self.at += 1;
    }

    fn module(&mut self) {
        let (name, line) = (self.word(self.at + 1).to_owned(), self.tokens[self.at].line);
        let mut module = self.module.clone();
        module.push(name.clone());
        self.found.modules.push(Declared { module, line, in_tests: self.in_tests() });
        self.at += 2;
        if self.word(self.at) == "{" {
            self.module.push(name);
            self.open(true);
        }
    }

    /// A path in the middle of code.
    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = vec![self.word(self.at).to_owned()];
        self.at += 1;
        while self.word(self.at) == "::" && self.is_name(self.at + 1) {
            segments.push(self.word(self.at + 1).to_owned());
            self.at += 2;
        }
        self.note(segments, line);
    }

    /// A tree of `use`, from here to its end.
    fn tree(&mut self, before: &[String]) {
        let mut segments = before.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        loop {
            match self.word(self.at) {
                "{" => {
                    self.at += 1;
                    while !matches!(self.word(self.at), "}" | "") {
                        self.tree(&segments);
                        if self.word(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "::" => self.at += 1,
                "as" => self.at += 2,
                "," | "}" | ";" | "" => break,
                _ => {
                    segments.push(self.word(self.at).to_owned());
                    self.at += 1;
                }
            }
        }
        self.note(segments, line);
    }

    /// Resolves `self` and `super`, and keeps the path.
    fn note(&mut self, segments: Vec<String>, line: usize) {
        let mut module = self.module.clone();
        let mut rest = segments.as_slice();
        let relative = matches!(rest.first().map(String::as_str), Some("self" | "super"));
        while let Some(first @ ("self" | "super")) = rest.first().map(String::as_str) {
            if first == "super" {
                module.pop();
            }
            rest = &rest[1..];
        }
        let segments = if relative {
            std::iter::once("crate".to_owned()).chain(module).chain(rest.iter().cloned()).collect()
        } else {
            segments
        };
        self.found.paths.push(Path { segments, line, in_tests: self.in_tests() });
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn paths(text: &str) -> Vec<String> {
        let paths = source("src/proxy/tag.rs", text).read().paths;
        paths.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_words() {
        let text = "/// crate::a\n/* x /* y */ z */ a 'b' '\\'' \"c \\\" d\" r#\"e \" f\"# b\"g\" br\"h\" &'i j r#type b'k' // l\nm";
        let words: Vec<_> = source("src/x.rs", text).tokens().into_iter().map(|token| token.text).collect();
        assert_eq!(words, ["a", "&", "j", "type", "m"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_texts() {
        let tokens = source("src/x.rs", "/* \n */ a \"\n\n\" b").tokens();
        assert_eq!(tokens.iter().map(|token| token.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn every_way_to_write_a_path_is_read() {
        assert_eq!(
            paths("use crate::{vault::{self, Vault as V}, model};"),
            ["crate::vault::self", "crate::vault::Vault", "crate::model"]
        );
        assert_eq!(paths("pub use ::sqlx::*;"), ["sqlx::*"]);
        assert_eq!(
            paths("fn f() -> crate::vault::X<moka::Y> { ::sqlx::query() }"),
            ["crate::vault::X", "moka::Y", "sqlx::query"]
        );
        assert_eq!(paths("<A as ::sqlx::B>::c::d()"), ["sqlx::B"]);
        assert_eq!(paths("macro_rules! m { () => { $crate::admin::x() } }"), ["crate::admin::x"]);
        assert_eq!(paths("fn f() -> impl X + use<'a, T> {}"), Vec::<String>::new());
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(
            paths("use super::error::E; mod tests { use super::super::head; } use super::super::vault;"),
            ["crate::proxy::error::E", "crate::proxy::head", "crate::vault"]
        );
        assert_eq!(paths("self::inner::f()"), ["crate::proxy::tag::inner::f"]);
    }

    #[test]
    fn what_is_compiled_for_tests_only_is_known() {
        let text =
            "#[cfg(test)] mod a; mod b;\n#[cfg(test)]\nmod c { fn f(x: [u8; 2]) { m::n(); } }\nfn g() { o::p(); }";
        let reading = source("src/x.rs", text).read();
        let modules: Vec<_> = reading.modules.iter().map(|m| (m.module.join("::"), m.in_tests)).collect();
        assert_eq!(modules, [("x::a".to_owned(), true), ("x::b".to_owned(), false), ("x::c".to_owned(), true)]);
        assert_eq!(reading.paths.iter().map(|path| path.in_tests).collect::<Vec<_>>(), [true, false]);
        let text = "#[cfg(test)] fn f(x: [u8; 2]) -> m::N { m::n(); } fn g() { o::p(); }";
        let reading = source("src/x.rs", text).read();
        assert_eq!(reading.paths.iter().map(|path| path.in_tests).collect::<Vec<_>>(), [true, true, false]);
    }
}
