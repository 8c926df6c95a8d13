//! Path templates, which say what paths a route is for, and resource templates, filled from them.
//!
//! ```text
//! path      /v1/projects/{project}/files/{file=**}      segments: text, *, {name}; last: **, {name=**}
//! resource  acme/{project}/{header:x-environment}/{file}
//! ```
//!
//! The syntax of paths is that of `google.api.http`. A template is checked once and then read
//! again for each request, which allocates nothing: it may come with the request. A value that
//! is no resource segment is refused, never repaired. Used by `table`, `tree` and `extensions`.

use std::borrow::Cow;

use crate::domain::grammar::{RESOURCE_BYTES_MAX, RESOURCE_SEGMENTS_MAX, is_segment};

use super::path::{self, Path};
use super::withheld::Withheld;
use super::{HeaderValue, Headers, Unanswerable};

/// Most segments of a path template.
pub(super) const PARTS_MAX: usize = 32;
/// Most bytes of a template.
const TEMPLATE_BYTES_MAX: usize = 1 << 10;
/// Most bytes of the name of a capture or a header.
const NAME_BYTES_MAX: usize = 64;

/// One segment of a path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Exactly this text, decoded.
    Literal(&'t str),
    /// Any one segment that ends with the verb, which is empty or begins with a colon.
    One {
        name: Option<&'t str>,
        verb: &'t str,
    },
    /// All that is left, also nothing.
    Rest { name: Option<&'t str> },
    /// Nothing, behind a slash: the path ends with it.
    Slash,
}

/// A path template that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathTemplate<'t>(&'t str);

impl<'t> PathTemplate<'t> {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(super) fn parse(text: &'t str) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("a path has at most {TEMPLATE_BYTES_MAX} bytes"));
        }
        if !text.starts_with('/') {
            return Err("a path begins with '/'".to_owned());
        }
        let template = Self(text);
        let count = template.parts().count();
        if count > PARTS_MAX {
            return Err(format!("a path has at most {PARTS_MAX} segments"));
        }
        for (at, segment) in segments(&text[1..]).enumerate() {
            let part = Part::read(segment);
            check_part(part, segment, at + 1 == count)?;
            let twice = |name| {
                template
                    .parts()
                    .take(at)
                    .any(|part| part.name() == Some(name))
            };
            if let Some(name) = part.name().filter(|name| twice(name)) {
                return Err(format!(
                    "{{{name}}} stands in it twice; give one another name"
                ));
            }
        }
        Ok(template)
    }

    /// A template whose text has been read before.
    pub(super) fn known(text: &'t str) -> Self {
        debug_assert!(Self::parse(text).is_ok(), "{text} was read before");
        Self(text)
    }

    /// Its segments in order.
    pub(super) fn parts(self) -> impl Iterator<Item = Part<'t>> + Clone {
        segments(self.0.strip_prefix('/').unwrap_or(self.0)).map(Part::read)
    }

    /// Whether it matches the path.
    pub(super) fn matches(self, path: &Path<'_>) -> bool {
        let mut rest = Some(path.text());
        for part in self.parts() {
            if let Part::Rest { .. } = part {
                return true;
            }
            let Some((segment, after)) = rest.map(first_segment) else {
                return false;
            };
            if !part.matches(segment) {
                return false;
            }
            rest = after;
        }
        rest.is_none()
    }

    fn captures(self, name: &str) -> bool {
        self.parts().any(|part| part.name() == Some(name))
    }

    /// What `name` stands for in a path that it matches: one segment, or all that is left.
    fn captured<'p>(self, path: &'p Path<'_>, name: &str) -> Option<Captured<'p>> {
        let mut rest = Some(path.text());
        for part in self.parts() {
            let named = part.name() == Some(name);
            if let Part::Rest { .. } = part {
                return named.then(|| Captured::Segments(rest.unwrap_or_default()));
            }
            let (segment, after) = first_segment(rest?);
            match part {
                Part::One { verb, .. } if named => {
                    return Some(Captured::Segment(segment.strip_suffix(verb)?));
                }
                _ => rest = after,
            }
        }
        None
    }
}

impl<'t> Part<'t> {
    fn read(segment: &'t str) -> Self {
        let (inside, verb) = match segment.strip_prefix('*') {
            _ if segment.is_empty() => return Self::Slash,
            Some("*") => return Self::Rest { name: None },
            Some(verb) => return Self::One { name: None, verb },
            None => match segment
                .strip_prefix('{')
                .and_then(|rest| split_at(rest, b'}'))
            {
                Some(parts) => parts,
                None => return Self::Literal(segment),
            },
        };
        match split_at(inside, b'=') {
            Some((name, "**")) if verb.is_empty() => Self::Rest { name: Some(name) },
            Some((name, "*")) => Self::One {
                name: Some(name),
                verb,
            },
            // With what is no name; refused when the template is parsed.
            _ => Self::One {
                name: Some(inside),
                verb,
            },
        }
    }

    fn name(self) -> Option<&'t str> {
        match self {
            Self::One { name, .. } | Self::Rest { name } => name,
            Self::Literal(_) | Self::Slash => None,
        }
    }

    /// Whether it matches one segment of a path.
    pub(super) fn matches(self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => segment == text,
            Self::One { verb, .. } => has_verb(segment, verb),
            Self::Slash => segment.is_empty(),
            Self::Rest { .. } => true,
        }
    }
}

/// Whether a segment is something and then the verb; any but the empty one has the empty verb.
pub(super) fn has_verb(segment: &str, verb: &str) -> bool {
    segment.len() > verb.len() && segment.ends_with(verb)
}

/// Splits at the first such byte, which is ASCII. What is split is short, so that a plain loop is
/// done sooner than a search that is made for long texts.
#[inline]
fn split_at(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// The first segment and what is behind its slash, if it has one.
#[inline]
pub(super) fn first_segment(path: &str) -> (&str, Option<&str>) {
    match split_at(path, b'/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (path, None),
    }
}

fn segments(text: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (segment, after) = first_segment(rest?);
        rest = after;
        Some(segment)
    })
}

/// What a capture stands for.
enum Captured<'p> {
    Segment(&'p str),
    Segments(&'p str),
}

impl<'p> Captured<'p> {
    fn valid(self) -> Option<&'p str> {
        match self {
            Self::Segment(text) => is_segment(text).then_some(text),
            Self::Segments(text) => segments(text).all(is_segment).then_some(text),
        }
    }
}

fn check_part(part: Part<'_>, segment: &str, last: bool) -> Result<(), String> {
    match part {
        Part::Slash if last => Ok(()),
        Part::Slash => Err("it has an empty segment ('//'), which no accepted path has".to_owned()),
        Part::Rest { .. } if !last => Err(format!("'{segment}' may only be the last segment")),
        Part::Literal(text) => check_literal(text),
        Part::One { name, verb } => {
            check_verb(segment, verb, last)?;
            name.map_or(Ok(()), |name| check_name(segment, name))
        }
        Part::Rest { name } => name.map_or(Ok(()), |name| check_name(segment, name)),
    }
}

fn check_literal(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
    // Nearly all are; no dot, so that it is no dot segment.
    if text.bytes().all(plain) {
        return Ok(());
    }
    if text.contains(['{', '}', '*']) {
        return Err(format!(
            "'{text}': '*', '**' and {{name}} stand for whole segments; write one of them alone"
        ));
    }
    if text.contains('%') {
        return Err(format!(
            "'{text}': write it decoded; escapes are decoded before matching"
        ));
    }
    if path::may_be_segment(text) {
        Ok(())
    } else {
        Err(format!(
            "no accepted path has the segment '{text}'; the rules of paths refuse it"
        ))
    }
}

fn check_verb(segment: &str, verb: &str, last: bool) -> Result<(), String> {
    if verb.is_empty() {
        return Ok(());
    }
    let valid = |verb: &str| {
        !verb.is_empty()
            && verb
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if verb.strip_prefix(':').is_some_and(valid) && last {
        return Ok(());
    }
    Err(format!(
        "'{segment}': a capture is a whole segment, or the last one with a verb, as '{{name}}:verb'"
    ))
}

fn check_name(segment: &str, name: &str) -> Result<(), String> {
    if is_name(name) {
        return Ok(());
    }
    Err(format!(
        "'{segment}': write {{name}}, {{name=*}} or {{name=**}}, with a name of [a-z0-9_] that \
         begins with a letter"
    ))
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|first| first.is_ascii_lowercase())
        && name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// One segment of a resource template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'t> {
    Literal(&'t str),
    Capture(&'t str),
    Header(&'t str),
}

impl<'t> Piece<'t> {
    fn read(segment: &'t str) -> Self {
        let inside = segment.strip_prefix('{');
        match inside.and_then(|rest| rest.strip_suffix('}')) {
            None => Self::Literal(segment),
            Some(name) => match name.strip_prefix("header:") {
                Some(header) => Self::Header(header),
                None => Self::Capture(name),
            },
        }
    }
}

/// Whether a resource template has anything to be filled.
#[inline]
pub(super) fn is_filled(resource: &str) -> bool {
    resource.bytes().any(|byte| matches!(byte, b'{' | b'}'))
}

/// A resource template that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResourceTemplate<'t>(&'t str);

impl<'t> ResourceTemplate<'t> {
    /// Reads a template whose captures are those of `path`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(super) fn parse(
        text: &'t str,
        path: Option<PathTemplate<'_>>,
        withheld: &Withheld,
    ) -> Result<Self, String> {
        let template = Self(text);
        let count = segments(text).count();
        if count > RESOURCE_SEGMENTS_MAX || text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!(
                "a resource has at most {RESOURCE_SEGMENTS_MAX} segments and {TEMPLATE_BYTES_MAX} \
                 bytes"
            ));
        }
        for segment in segments(text) {
            match Piece::read(segment) {
                Piece::Literal(text) => check_resource_literal(text)?,
                Piece::Header(name) => check_header(segment, name, withheld)?,
                Piece::Capture(name) => {
                    if !is_name(name) {
                        return Err(format!(
                            "'{segment}': write {{name}} as the path has it, or {{header:x-name}}"
                        ));
                    }
                    if !path.is_some_and(|path| path.captures(name)) {
                        return Err(format!(
                            "{{{name}}} is no capture of the path; name it there"
                        ));
                    }
                }
            }
        }
        Ok(template)
    }

    /// A template whose text has been read before.
    pub(super) fn known(text: &'t str) -> Self {
        Self(text)
    }

    /// The resource of a request; borrowed when nothing is captured.
    ///
    /// # Errors
    /// [`Unanswerable::Value`] when a value is missing, there twice, or no segment of a resource.
    pub(super) fn resource(
        self,
        template: Option<PathTemplate<'_>>,
        path: &Path<'_>,
        headers: &impl Headers,
    ) -> Result<Cow<'t, str>, Unanswerable> {
        if !is_filled(self.0) {
            return Ok(Cow::Borrowed(self.0));
        }
        let mut resource = String::with_capacity(self.0.len() + path.text().len());
        let mut count = 0;
        for segment in segments(self.0) {
            let value = match Piece::read(segment) {
                Piece::Literal(text) => Some(text),
                Piece::Header(name) => match headers.header(name) {
                    HeaderValue::One(value) if is_segment(value) => Some(value),
                    _ => None,
                },
                Piece::Capture(name) => template
                    .and_then(|template| template.captured(path, name))
                    .and_then(Captured::valid),
            };
            let value = value.ok_or_else(|| Unanswerable::Value(segment.into()))?;
            if !resource.is_empty() {
                resource.push('/');
            }
            resource.push_str(value);
            count += segments(value).count();
        }
        if resource.len() > RESOURCE_BYTES_MAX || count > RESOURCE_SEGMENTS_MAX {
            return Err(Unanswerable::Value(self.0.into()));
        }
        Ok(Cow::Owned(resource))
    }
}

fn check_resource_literal(text: &str) -> Result<(), String> {
    if text.contains(['{', '}']) {
        return Err(format!(
            "'{text}': {{name}} and {{header:name}} stand for whole segments"
        ));
    }
    if is_segment(text) {
        Ok(())
    } else {
        Err(format!(
            "'{text}' is no segment of a resource: 1 to 128 of [A-Za-z0-9._~@:+-], not '.' or '..'"
        ))
    }
}

fn check_header(segment: &str, name: &str, withheld: &Withheld) -> Result<(), String> {
    if withheld.has(name) {
        return Err(format!(
            "'{segment}': a credential or an identity must not become part of a resource"
        ));
    }
    if is_header_name(name) {
        Ok(())
    } else {
        Err(format!(
            "'{segment}': write the header's name in lower case, as {{header:x-name}}"
        ))
    }
}

/// Whether it is the name of an HTTP header in lower case, and no pseudo-header (RFC 9110, 5.1).
#[must_use]
pub fn is_header_name(name: &str) -> bool {
    let token = |byte: u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' => true,
        _ => b"!#$%&'*+-.^_`|~".contains(&byte),
    };
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(token)
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
