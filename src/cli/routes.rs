//! `latchkey routes`: what a request through Envoy would need, and whether a table is right.
//!
//! Reads the route table itself, by the code that a server reads it with; no server is asked. The
//! path is taken as it is written, so that a hostile one is shown to be refused. Exit codes: 0 a
//! route matches, 1 the request is denied, 2 the table or the command line is wrong.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::routes::{
    HeaderValue, Headers, Matched, NearMiss, Needed, Request, Table, Unanswerable,
};

use super::failure::{CliError, Exit};
use super::output::{Output, Page};
use super::server::ConfigArgs;

/// What a host with a port, with a final dot, or that is none is told.
const OTHER_HOST: &str = "the host is for no route: leave out its port and a final dot, or write \
                          ignore_ports = true above the routes if Envoy ignores ports";

/// Routes that are shown at the most for being near.
const NEAR_MAX: usize = 8;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Show which route a request has and what it needs; exits 0 when one matches and 1 when the
    /// request is denied.
    Test(Box<TestArgs>),
    /// Read the table and say how many routes it has; exits 2 when it is wrong.
    Check(Box<TableArgs>),
}

/// Which table.
#[derive(Args, Debug)]
pub(crate) struct TableArgs {
    /// The route table [default: `envoy.routes_file` of the server's settings].
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A request.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// The method, such as GET; POST for a gRPC call.
    #[arg(value_name = "METHOD")]
    method: String,
    /// A URL, or a path such as /acme.v1.Secrets/GetSecret.
    #[arg(value_name = "URL", value_parser = target)]
    target: Target,
    /// A header of the request, for `{header:…}`; may be repeated.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    table: TableArgs,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    path: String,
}

/// A URL or a path; nothing of the path is touched.
fn target(text: &str) -> Result<Target, String> {
    let is_scheme = |scheme: &str| {
        let mut bytes = scheme.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let (host, path) = match text.split_once("://") {
        _ if text.starts_with('/') => ("", text),
        Some((scheme, rest)) if is_scheme(scheme) => {
            rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
        }
        _ => return Err("wants a URL such as https://api.example.com/v1, or a path".to_owned()),
    };
    // Every client asks for the root where a URL has no path.
    let root = if path.starts_with('/') { "" } else { "/" };
    Ok(Target {
        host: host.to_owned(),
        path: format!("{root}{path}"),
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("wants NAME:VALUE".to_owned()),
    }
}

/// The headers of the command line.
struct Given<'a>(&'a [(String, String)]);

impl Headers for Given<'_> {
    fn header(&self, name: &str) -> HeaderValue<'_> {
        let mut values = self.0.iter().filter(|(known, _)| known == name);
        match (values.next(), values.next()) {
            (None, _) => HeaderValue::Absent,
            (Some((_, value)), None) => HeaderValue::One(value),
            (Some(_), Some(_)) => HeaderValue::Several,
        }
    }
}

/// Shows what the table says.
///
/// # Errors
/// Exit 1 when the request is denied, 2 when there is no table or a wrong one.
pub(crate) fn run(command: RoutesCommand, output: Output) -> Result<(), CliError> {
    match command {
        RoutesCommand::Test(args) => test(&args, output),
        RoutesCommand::Check(args) => check(&args, output),
    }
}

impl TableArgs {
    /// The table, and its file as it is shown.
    fn read(&self) -> Result<(Table, String), CliError> {
        let envoy = self.config.load(false)?.envoy;
        let file = self.file.as_ref().unwrap_or(&envoy.routes_file);
        if file.as_os_str().is_empty() {
            let why = "there is no route table: name it with --file, or set envoy.routes_file";
            return Err(CliError::usage(why));
        }
        let table = Table::read(file, &envoy.withheld()).map_err(CliError::usage)?;
        Ok((table, file.display().to_string()))
    }
}

#[derive(Serialize)]
struct CheckView {
    file: String,
    routes: usize,
}

fn check(args: &TableArgs, output: Output) -> Result<(), CliError> {
    let (table, file) = args.read()?;
    let routes = table.len();
    let view = CheckView { file, routes };
    output.show(&view, |page| {
        let s = if routes == 1 { "" } else { "s" };
        page.line(format!("{}: {routes} route{s}", view.file));
    })
}

fn test(args: &TestArgs, output: Output) -> Result<(), CliError> {
    let (table, file) = args.table.read()?;
    let request = Request {
        host: &args.target.host,
        method: &args.method,
        path: &args.target.path,
    };
    let denied = |line, why: &Unanswerable| {
        let (near, takes_host) = match why {
            Unanswerable::NoRoute => (table.near_misses(&request), table.takes_host(&request)),
            _ => (Vec::new(), true),
        };
        let mut view = DeniedView::new(&file, line, why, &near);
        if !takes_host {
            view.message = OTHER_HOST.to_owned();
        }
        output.show(&view, |page| view.page(page))?;
        Err(CliError::told(Exit::Refused))
    };
    let matched = match table.matching(&request) {
        Ok(matched) => matched,
        Err(why) => return denied(None, &why),
    };
    match matched.needed(&Given(&args.headers)) {
        Ok(needed) => {
            let view = RouteView::new(&file, &matched, &needed);
            output.show(&view, |page| view.page(page))
        }
        Err(why) => denied(Some(matched.line()), &why),
    }
}

/// A route that matches, and what it needs of the request.
#[derive(Serialize)]
struct RouteView<'a> {
    file: &'a str,
    line: usize,
    path: &'a str,
    action: Option<&'a str>,
    resource: Option<&'a str>,
    audience: Option<&'a str>,
    stale: &'static str,
    optional: bool,
}

impl<'a> RouteView<'a> {
    fn new(file: &'a str, matched: &Matched<'a>, needed: &'a Needed<'a>) -> Self {
        let need = needed.need.as_ref();
        Self {
            file,
            line: matched.line(),
            path: matched.template(),
            action: need.map(|(action, _)| &**action),
            resource: need.map(|(_, resource)| &**resource),
            audience: needed.audience,
            stale: needed.on_stale.as_str(),
            optional: needed.optional,
        }
    }

    fn page(&self, page: &mut Page) {
        let need = match (self.action, self.resource) {
            (Some(action), Some(resource)) => format!("{action}@{resource}"),
            _ => "any token that holds".to_owned(),
        };
        let without = match self.optional {
            true => "passes",
            false => "denied",
        };
        page.fields(&[
            ("route", format!("{}:{}", self.file, self.line)),
            ("path", self.path.to_owned()),
            ("needs", need),
            ("audience", self.audience.unwrap_or_default().to_owned()),
            ("without a token", without.to_owned()),
            ("while stale", self.stale.to_owned()),
        ]);
    }
}

/// Why a request is denied.
#[derive(Serialize)]
struct DeniedView<'a> {
    file: &'a str,
    /// The route that matches, if one does.
    line: Option<usize>,
    /// As answers to Envoy say it.
    reason: &'static str,
    message: String,
    near: Vec<NearView>,
}

/// A route for the path, but not for the request.
#[derive(Serialize)]
struct NearView {
    line: usize,
    other_method: bool,
    other_host: bool,
}

impl<'a> DeniedView<'a> {
    fn new(file: &'a str, line: Option<usize>, why: &Unanswerable, near: &[NearMiss]) -> Self {
        let (reason, message) = match why {
            Unanswerable::Path(refusal) => ("path", refusal.to_string()),
            Unanswerable::NoRoute => ("no_route", "no route is for this request".to_owned()),
            Unanswerable::Value(part) => {
                let what = "has no value in this request that a resource may have";
                ("no_resource", format!("{part} {what}"))
            }
            Unanswerable::Misconfigured(why) => ("misconfigured", why.clone()),
        };
        let near = near.iter().take(NEAR_MAX).map(|near| NearView {
            line: near.line,
            other_method: near.other_method,
            other_host: near.other_host,
        });
        Self {
            file,
            line,
            reason,
            message,
            near: near.collect(),
        }
    }

    fn page(&self, page: &mut Page) {
        page.line(format!("denied: {} [{}]", self.message, self.reason));
        if let Some(line) = self.line {
            page.line(format!("  {}:{line} matches", self.file));
        }
        for near in &self.near {
            let other = match (near.other_method, near.other_host) {
                (true, false) => "methods",
                (false, _) => "hosts",
                (true, true) => "methods and hosts",
            };
            page.line(format!(
                "  {}:{} is for other {other}",
                self.file, near.line
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_url_or_a_path_and_stays_as_it_is_written() {
        let check = |text: &str, host: &str, path: &str| {
            let (host, path) = (host.to_owned(), path.to_owned());
            assert_eq!(target(text), Ok(Target { host, path }), "{text}");
        };
        check(
            "https://api.example.com/v1?x=y",
            "api.example.com",
            "/v1?x=y",
        );
        check("http://h:8080", "h:8080", "/");
        check("http://h?x", "h", "/?x");
        check("http://h#x", "h", "/#x");
        check("grpc+tls://h/a.B/C", "h", "/a.B/C");
        check("http://[::1]:80/a", "[::1]:80", "/a");
        check("/a/../b//c;d%2fe#f", "", "/a/../b//c;d%2fe#f");
        check("http://h//a/./b", "h", "//a/./b");
        check("/http://h/a", "", "/http://h/a");
        for text in ["", "a", "api.example.com/v1", "*", "://h/a", "1http://h/a"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
