//! The route table: a TOML file that says, in order, what the requests of each route need.
//!
//! The first route that matches decides; a request that none matches is denied. A table is taken
//! whole or not at all: an unknown key, a template that cannot be filled and a route that an
//! earlier one hides are refused with their line. Immutable once read, so that requests share it
//! without a lock. Used through `live`, and by itself in `latchkey routes`.

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use super::demand::{self, Demand, Half};
use super::host::{self, HostPattern};
use super::path::Path;
use super::template::{PathTemplate, ResourceTemplate};
use super::tree::{Place, Tree};
use super::withheld::Withheld;
use super::{Headers, Needed, OnStale, Request, Unanswerable};

/// Most routes of a table.
pub const ROUTES_MAX: usize = 4096;
/// Most bytes of a table's file.
pub const TABLE_BYTES_MAX: usize = 1 << 20;
const METHODS_MAX: usize = 16;
const METHOD_BYTES_MAX: usize = 32;

/// Why a table is refused: the first thing that is wrong with it, and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct TableError {
    /// The line that is wrong, from 1; none when it is the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// A route table, checked.
#[derive(Debug, Default)]
pub struct Table {
    rules: Vec<Rule>,
    tree: Tree,
    /// Whether any route is for some hosts only.
    names_hosts: bool,
    ignore_ports: bool,
}

/// The route that a request has, and its path.
#[derive(Debug)]
pub struct Matched<'a> {
    rule: &'a Rule,
    path: Path<'a>,
}

/// A route for the path of a request, but not for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The line that the route begins at.
    pub line: usize,
    /// It is not for the method.
    pub other_method: bool,
    /// It is not for the host.
    pub other_host: bool,
}

impl Table {
    /// Reads the text of a table, whose resources are made of no header that is withheld.
    ///
    /// # Errors
    /// [`TableError`] with the line of the first thing that is wrong.
    pub fn parse(text: &str, withheld: &Withheld) -> Result<Self, TableError> {
        if text.len() > TABLE_BYTES_MAX {
            let message = format!("a table has at most {TABLE_BYTES_MAX} bytes");
            return Err(TableError {
                line: None,
                message,
            });
        }
        let lines = Lines::of(text);
        let file: File = toml::from_str(text).map_err(|error| TableError {
            line: error.span().map(|span| lines.at(span.start)),
            message: error.message().trim_end().replace('\n', ", "),
        })?;
        if file.route.is_empty() {
            let message = "it has no [[route]], so every request would be denied; write one route \
                           at least"
                .to_owned();
            return Err(TableError {
                line: None,
                message,
            });
        }
        let mut table = Self {
            ignore_ports: file.ignore_ports,
            ..Self::default()
        };
        for entry in &file.route {
            table.add(entry, &lines, withheld)?;
        }
        Ok(table)
    }

    /// How many routes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has no route; then every request is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What a request needs by the first route that matches it.
    ///
    /// # Errors
    /// [`Unanswerable`] when it cannot be told, and the request is to be denied.
    pub fn find<'a>(
        &'a self,
        request: &Request<'a>,
        headers: &impl Headers,
    ) -> Result<Needed<'a>, Unanswerable> {
        self.matching(request)?.needed(headers)
    }

    /// The first route that matches a request.
    ///
    /// # Errors
    /// [`Unanswerable::Path`] and [`Unanswerable::NoRoute`].
    pub fn matching<'a>(&'a self, request: &Request<'a>) -> Result<Matched<'a>, Unanswerable> {
        let path = Path::parse(request.path)?;
        let host = self.host(request).ok_or(Unanswerable::NoRoute)?;
        let accept = |place| {
            let rule = self.rule(place);
            rule.is_some_and(|rule| rule.is_for(request.method, host))
        };
        let place = self.tree.find(&path, accept);
        let rule = place.and_then(|place| self.rule(place));
        let rule = rule.ok_or(Unanswerable::NoRoute)?;
        Ok(Matched { rule, path })
    }

    /// The routes that are for the path of a request and yet not for it, in their order: what an
    /// operator who wonders is shown. Tries every route.
    #[must_use]
    pub fn near_misses(&self, request: &Request<'_>) -> Vec<NearMiss> {
        let Ok(path) = Path::parse(request.path) else {
            return Vec::new();
        };
        let host = self.host(request);
        let for_path = self
            .rules
            .iter()
            .filter(|rule| PathTemplate::known(&rule.path).matches(&path));
        let near = for_path.map(|rule| NearMiss {
            line: rule.line,
            other_method: !rule.has_method(request.method),
            other_host: !host.is_some_and(|host| rule.has_host(host)),
        });
        near.filter(|near| near.other_method || near.other_host)
            .collect()
    }

    /// Whether the host of a request is one that routes may be for.
    #[must_use]
    pub fn takes_host(&self, request: &Request<'_>) -> bool {
        self.host(request).is_some()
    }

    /// The host of a request; none for what is no host, and for what Envoy may have taken for
    /// another host than the routes that name it.
    fn host<'a>(&self, request: &Request<'a>) -> Option<&'a str> {
        let asked = host::asked(request.host)?;
        let respelled = asked.dot || asked.port && !self.ignore_ports;
        (!respelled || !self.names_hosts).then_some(asked.name)
    }

    fn rule(&self, place: Place) -> Option<&Rule> {
        self.rules.get(place as usize)
    }

    fn add(
        &mut self,
        entry: &Spanned<Entry>,
        lines: &Lines,
        withheld: &Withheld,
    ) -> Result<(), TableError> {
        let line = lines.at(entry.span().start);
        let at_route = |message: String| TableError {
            line: Some(line),
            message,
        };
        if self.rules.len() == ROUTES_MAX {
            return Err(at_route(format!("a table has at most {ROUTES_MAX} routes")));
        }
        let rule = Rule::read(entry.get_ref(), line, lines, withheld)?;
        let hides = |place| {
            self.rule(place)
                .is_some_and(|earlier| earlier.covers(&rule))
        };
        let template = PathTemplate::known(&rule.path);
        if let Some(earlier) = self.tree.covering(template, hides) {
            let earlier = self.rule(earlier).map_or(0, |earlier| earlier.line);
            return Err(at_route(format!(
                "this route never matches, since the one at line {earlier} matches all of its \
                 requests; put it before that one, or remove it"
            )));
        }
        self.tree.add(self.rules.len() as Place, template);
        self.names_hosts |= rule.host.is_some();
        self.rules.push(rule);
        Ok(())
    }
}

impl<'a> Matched<'a> {
    /// The line that the route begins at.
    #[must_use]
    pub fn line(&self) -> usize {
        self.rule.line
    }

    /// The paths that the route is for, as a template.
    #[must_use]
    pub fn template(&self) -> &'a str {
        &self.rule.path
    }

    /// What the request needs.
    ///
    /// # Errors
    /// [`Unanswerable::Value`] when it has not what the resource is made of.
    pub fn needed(&self, headers: &impl Headers) -> Result<Needed<'a>, Unanswerable> {
        let template = PathTemplate::known(&self.rule.path);
        self.rule
            .demand()
            .needed(Some(template), &self.path, headers)
    }
}

/// One route, checked.
#[derive(Debug)]
struct Rule {
    line: usize,
    host: Option<HostPattern>,
    methods: Option<Box<[Box<str>]>>,
    /// A path template, also where the table names a gRPC method.
    path: Box<str>,
    /// An action and a resource template.
    need: Option<(Box<str>, Box<str>)>,
    audience: Option<Box<str>>,
    on_stale: OnStale,
    optional: bool,
}

impl Rule {
    fn read(
        entry: &Entry,
        line: usize,
        lines: &Lines,
        withheld: &Withheld,
    ) -> Result<Self, TableError> {
        let at_route = |message: &str| TableError {
            line: Some(line),
            message: message.to_owned(),
        };
        let (path, methods) = match (&entry.path, &entry.grpc) {
            (Some(path), None) => {
                let methods = entry.methods.as_ref();
                let methods = methods.map(|given| lines.told(given, |given| methods_of(given)));
                let template =
                    |path: &String| PathTemplate::parse(path).map(|_| path.as_str().into());
                (lines.told(path, template)?, methods.transpose()?)
            }
            (None, Some(grpc)) => {
                if let Some(methods) = &entry.methods {
                    let why = "a gRPC call is always a POST; leave 'methods' out".to_owned();
                    return Err(lines.wrong(methods, why));
                }
                let path = lines.told(grpc, |grpc| grpc_path(grpc))?;
                (path, Some(["POST".into()].into()))
            }
            (Some(_), Some(_)) => {
                return Err(at_route(
                    "it has both 'path' and 'grpc'; make two routes of it",
                ));
            }
            (None, None) => {
                return Err(at_route(
                    "it has neither 'path' nor 'grpc'; for every request write path = \"/**\"",
                ));
            }
        };
        let template = PathTemplate::known(&path);
        let host = entry.host.as_ref();
        let host = host.map(|host| lines.told(host, |host| HostPattern::parse(host)));
        let audience = entry.audience.as_ref();
        let audience = audience.map(|text| lines.told(text, |text| demand::audience(text)));
        let on_stale = entry.stale.as_ref();
        let on_stale = on_stale.map(|text| lines.told(text, |text| demand::on_stale(text)));
        Ok(Self {
            line,
            host: host.transpose()?,
            methods,
            need: need_of(entry, template, lines, withheld, at_route)?,
            audience: audience.transpose()?.map(Into::into),
            on_stale: on_stale.transpose()?.unwrap_or_default(),
            optional: entry.optional,
            path,
        })
    }

    fn demand(&self) -> Demand<'_> {
        let need = self.need.as_ref();
        Demand {
            need: need.map(|(action, resource)| (&**action, ResourceTemplate::known(resource))),
            audience: self.audience.as_deref(),
            on_stale: self.on_stale,
            optional: self.optional,
        }
    }

    fn is_for(&self, method: &str, host: &str) -> bool {
        self.has_method(method) && self.has_host(host)
    }

    fn has_method(&self, method: &str) -> bool {
        let methods = self.methods.as_ref();
        methods.is_none_or(|methods| methods.iter().any(|known| **known == *method))
    }

    fn has_host(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|known| known.matches(host))
    }

    /// Whether it is for every method and host that `other` is for.
    fn covers(&self, other: &Self) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs.iter().all(|method| mine.contains(method)),
        };
        methods
            && match (&self.host, &other.host) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(mine), Some(theirs)) => mine.covers(theirs),
            }
    }
}

type BoxedNeed = (Box<str>, Box<str>);

fn need_of(
    entry: &Entry,
    template: PathTemplate<'_>,
    lines: &Lines,
    withheld: &Withheld,
    at_route: impl Fn(&str) -> TableError,
) -> Result<Option<BoxedNeed>, TableError> {
    let (action, resource) = match (&entry.action, &entry.resource) {
        (None, None) => return Ok(None),
        (Some(action), Some(resource)) => (action, resource),
        (Some(_), None) => {
            return Err(at_route(
                "it has an 'action' and no 'resource'; they come together",
            ));
        }
        (None, Some(_)) => {
            return Err(at_route(
                "it has a 'resource' and no 'action'; they come together",
            ));
        }
    };
    let read = demand::need(
        action.get_ref(),
        resource.get_ref(),
        Some(template),
        withheld,
    );
    read.map_err(|(half, why)| match half {
        Half::Action => lines.wrong(action, why),
        Half::Resource => lines.wrong(resource, why),
    })?;
    let boxed = |text: &Spanned<String>| text.get_ref().as_str().into();
    Ok(Some((boxed(action), boxed(resource))))
}

fn methods_of(methods: &[String]) -> Result<Box<[Box<str>]>, String> {
    if methods.is_empty() || methods.len() > METHODS_MAX {
        return Err(format!(
            "name 1 to {METHODS_MAX} methods, or leave 'methods' out for any"
        ));
    }
    for (at, method) in methods.iter().enumerate() {
        let valid = method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if method.is_empty() || method.len() > METHOD_BYTES_MAX || !valid {
            return Err(format!(
                "'{method}' is no method; write it in upper case, as \"GET\""
            ));
        }
        if methods[..at].contains(method) {
            return Err(format!("'{method}' stands there twice"));
        }
    }
    Ok(methods
        .iter()
        .map(|method| method.as_str().into())
        .collect())
}

fn grpc_path(text: &str) -> Result<Box<str>, String> {
    let is_name = |name: &str| {
        let first = name.bytes().next();
        first.is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let valid = text.split_once('/').is_some_and(|(service, method)| {
        service.split('.').all(is_name) && (method == "*" || is_name(method))
    });
    if !valid {
        return Err(format!(
            "'{text}' is no gRPC method: write \"acme.v1.Secrets/GetSecret\", or \
             \"acme.v1.Secrets/*\" for all of a service"
        ));
    }
    let path = format!("/{text}");
    PathTemplate::parse(&path)?;
    Ok(path.into())
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ignore_ports: bool,
    #[serde(default)]
    route: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: Option<Spanned<String>>,
    methods: Option<Spanned<Vec<String>>>,
    path: Option<Spanned<String>>,
    grpc: Option<Spanned<String>>,
    action: Option<Spanned<String>>,
    resource: Option<Spanned<String>>,
    audience: Option<Spanned<String>>,
    stale: Option<Spanned<String>>,
    #[serde(default)]
    optional: bool,
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, from 1.
    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|end| *end < byte) + 1
    }

    fn wrong<T>(&self, value: &Spanned<T>, message: String) -> TableError {
        TableError {
            line: Some(self.at(value.span().start)),
            message,
        }
    }

    /// Reads a value; what is wrong with it is told with its line.
    fn told<'t, T, R>(
        &self,
        value: &'t Spanned<T>,
        read: impl FnOnce(&'t T) -> Result<R, String>,
    ) -> Result<R, TableError> {
        read(value.get_ref()).map_err(|why| self.wrong(value, why))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
