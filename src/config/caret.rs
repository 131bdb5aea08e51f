//! Mistakes as a person reads them: file, line, key and a caret, or the name of the variable.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mask::{Layout, broken_line};
use super::source::{Place, Sources, tokens};

/// Whether what is reported stops the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// With the colours of a terminal.
    Coloured,
}

/// Everything found wrong in one go. It holds the files' texts to point into them, and shows no secret of them.
pub struct Report {
    severity: Severity,
    mistakes: Vec<Mistake>,
    sources: Arc<Sources>,
}

/// One mistake.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    pub(super) spot: Spot,
    pub(super) detail: String,
}

/// Where a mistake is.
#[derive(Clone, Debug)]
pub(super) enum Spot {
    /// At a setting.
    At(Place),
    /// At these bytes of a source that is not TOML, or somewhere in it.
    Syntax(usize, Option<Range<usize>>),
    /// In a variable.
    Variable(String),
}

impl Report {
    pub(super) fn new(severity: Severity, mistakes: Vec<Mistake>, sources: Arc<Sources>) -> Self {
        Report { severity, mistakes, sources }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// How much was found.
    pub fn len(&self) -> usize {
        self.mistakes.len()
    }

    /// What was found, without where.
    pub fn details(&self) -> impl Iterator<Item = &str> {
        self.mistakes.iter().map(|mistake| mistake.detail.as_str())
    }

    /// The JSON pointers of what was found at a setting, with what is wrong.
    pub fn places(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mistakes.iter().filter_map(|mistake| match &mistake.spot {
            Spot::At(place) => Some((place.pointer.as_str(), mistake.detail.as_str())),
            Spot::Syntax(..) | Spot::Variable(_) => None,
        })
    }

    /// Every mistake with its place, in the order of the files.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let mut maps: HashMap<usize, Map<'_>> = HashMap::new();
        let mut found: Vec<(usize, usize, String)> = Vec::with_capacity(self.mistakes.len());
        for mistake in &self.mistakes {
            let (source, at, group) = self.group(mistake, &mut maps);
            found.push((source, at, renderer.render(&[group])));
        }
        found.sort_by_key(|(source, at, _)| (*source, *at));
        let texts: Vec<String> = found.into_iter().map(|(_, _, text)| text).collect();
        texts.join("\n\n")
    }

    fn group<'a>(&'a self, mistake: &Mistake, maps: &mut HashMap<usize, Map<'a>>) -> (usize, usize, Group<'a>) {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = |text: String| level.primary_title(normalize_untrusted_str(&text));
        match &mistake.spot {
            Spot::Variable(name) => {
                (0, usize::MAX, title(mistake.detail.clone()).element(Origin::path(variable_label(name))))
            }
            Spot::Syntax(source, span) => {
                let map = maps.entry(*source).or_insert_with(|| Map::of(&self.sources.text(*source).text));
                let name = &self.sources.text(*source).name;
                let span = span.clone().unwrap_or(0..0);
                let (line, shown, span_shown) = map.line(span.clone());
                (*source, span.start, title(mistake.detail.clone()).element(snippet(name, line, shown, span_shown)))
            }
            Spot::At(place) => {
                let map = maps.entry(place.source).or_insert_with(|| Map::of(&self.sources.text(place.source).text));
                let name = &self.sources.text(place.source).name;
                let title = title(labelled(&place.pointer, &mistake.detail));
                let found = map.locate(&place.pointer, mistake.detail.starts_with("unknown key"));
                if let Some(variable) = self.sources.variable(place, matches!(found, Found::Exactly(_))) {
                    return (place.source, usize::MAX, title.element(Origin::path(variable_label(&variable.name))));
                }
                match found {
                    Found::Exactly(span) | Found::Above(span) => {
                        let (line, shown, span_shown) = map.line(span.clone());
                        (place.source, span.start, title.element(snippet(name, line, shown, span_shown)))
                    }
                    Found::Nowhere => (place.source, 0, title.element(Origin::path(name))),
                }
            }
        }
    }
}

fn variable_label(name: &str) -> String {
    format!("environment variable {name}")
}

fn snippet<'a>(
    name: &'a str,
    line: usize,
    text: String,
    span: Range<usize>,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    Snippet::source(text).line_start(line).path(name).annotation(AnnotationKind::Primary.span(span))
}

/// `proxy.listeners[0].address: what is wrong`.
fn labelled(pointer: &str, detail: &str) -> String {
    let mut label = String::new();
    for token in tokens(pointer) {
        let is_index = token.bytes().all(|byte| byte.is_ascii_digit());
        match (is_index, label.is_empty()) {
            (true, false) => label.push_str(&format!("[{token}]")),
            (_, true) => label.push_str(&token),
            (false, false) => label.push_str(&format!(".{token}")),
        }
    }
    if label.is_empty() { detail.to_owned() } else { format!("{label}: {detail}") }
}

/// Where a setting stands in a text.
enum Found {
    /// Here.
    Exactly(Range<usize>),
    /// It is not there; this is the nearest thing above it.
    Above(Range<usize>),
    /// Neither it nor anything above it.
    Nowhere,
}

/// A text, parsed once more to point into it.
struct Map<'a> {
    text: &'a str,
    lines: Vec<usize>,
    /// What was understood of it; `None` where it is not TOML.
    parsed: Option<(DeTable<'a>, Layout)>,
}

impl<'a> Map<'a> {
    fn of(text: &'a str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        let parsed = DeTable::parse(text).ok().map(|table| {
            let layout = Layout::of(table.get_ref());
            (table.into_inner(), layout)
        });
        Map { text, lines, parsed }
    }

    fn locate(&self, pointer: &str, wants_key: bool) -> Found {
        let Some((table, _)) = &self.parsed else { return Found::Nowhere };
        let mut above = None;
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for token in tokens(pointer) {
            let table = match value.map(Spanned::get_ref) {
                None => Some(table),
                Some(DeValue::Table(table)) => Some(table),
                Some(_) => None,
            };
            let items = match value.map(Spanned::get_ref) {
                Some(DeValue::Array(items)) => Some(items),
                _ => None,
            };
            let entry = table.and_then(|table| table.get_key_value(&*token));
            let item = items.and_then(|items| items.get(token.parse::<usize>().ok()?));
            let Some(next) = entry.map(|(_, value)| value).or(item) else {
                return above.map_or(Found::Nowhere, Found::Above);
            };
            let is_table = matches!(next.get_ref(), DeValue::Table(_) | DeValue::Array(_));
            above = match entry {
                Some((key, _)) if wants_key || is_table => Some(key.span()),
                _ => Some(next.span()),
            };
            value = Some(next);
        }
        above.map_or(Found::Nowhere, Found::Exactly)
    }

    /// The number of the line a span begins in, the line as it may be shown, and the span in that.
    fn line(&self, span: Range<usize>) -> (usize, String, Range<usize>) {
        let at = span.start.min(self.text.len());
        let number = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[number - 1];
        let end = self.lines.get(number).map_or(self.text.len(), |next| next - 1);
        let (shown, span) = match &self.parsed {
            Some((_, layout)) => layout.line(self.text, start..end, span),
            None => broken_line(self.text, start..end, span),
        };
        (number, shown, span)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

/// As it is displayed: the texts it points into may hold secrets.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.mistakes.iter().map(|mistake| &mistake.detail)).finish()
    }
}
