//! What Envoy's own route says that a request needs: the `latchkey.` keys of `context_extensions`.
//!
//! They are set by who configures Envoy, never by a client, and come with every request; so they
//! are read without allocating. Where one of them is wrong, or unknown, the request is denied: a
//! misspelt key must not mean that nothing is asked.

use super::demand::{self, Demand};
use super::path::Path;
use super::template::PathTemplate;
use super::{Headers, Needed, Request, Unanswerable};

const PREFIX: &str = "latchkey.";

/// The keys as they came.
#[derive(Default)]
struct Keys<'a> {
    action: Option<&'a str>,
    resource: Option<&'a str>,
    path: Option<&'a str>,
    audience: Option<&'a str>,
    stale: Option<&'a str>,
    optional: Option<&'a str>,
}

/// What a request needs by the keys that came with it; `None` when none of them is Latchkey's.
pub fn by_extensions<'a>(
    extensions: impl Iterator<Item = (&'a str, &'a str)>,
    request: &Request<'a>,
    headers: &impl Headers,
) -> Option<Result<Needed<'a>, Unanswerable>> {
    let mut keys = None;
    for (name, value) in extensions {
        if let Some(name) = name.strip_prefix(PREFIX)
            && let Err(wrong) = keys.get_or_insert_with(Keys::default).note(name, value)
        {
            return Some(Err(Unanswerable::Misconfigured(wrong)));
        }
    }
    Some(keys?.needed(request, headers))
}

impl<'a> Keys<'a> {
    fn note(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        let place = match name {
            "action" => &mut self.action,
            "resource" => &mut self.resource,
            "path" => &mut self.path,
            "audience" => &mut self.audience,
            "stale" => &mut self.stale,
            "optional" => &mut self.optional,
            _ => return Err(format!("{PREFIX}{name} is unknown")),
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(format!("{PREFIX}{name} is there twice")),
        }
    }

    fn needed(
        self,
        request: &Request<'a>,
        headers: &impl Headers,
    ) -> Result<Needed<'a>, Unanswerable> {
        // Envoy took this route by the path as it came: another spelling would have missed the
        // routes before it.
        let path = Path::as_compared(request.path)?;
        let template = match self.path {
            Some(text) => Some(PathTemplate::parse(text).map_err(wrong("path"))?),
            None => None,
        };
        let demand = self.demand(template)?;
        if template.is_some_and(|template| !template.matches(&path)) {
            return Err(Unanswerable::NoRoute);
        }
        demand.needed(template, &path, headers)
    }

    fn demand(self, template: Option<PathTemplate<'_>>) -> Result<Demand<'a>, Unanswerable> {
        let need = match (self.action, self.resource) {
            (Some(action), Some(resource)) => {
                let read = demand::need(action, resource, template);
                Some(read.map_err(|(key, why)| wrong(key.as_str())(why))?)
            }
            (None, None) => None,
            _ => {
                let why = format!("{PREFIX}action and {PREFIX}resource come together");
                return Err(Unanswerable::Misconfigured(why));
            }
        };
        let audience = self.audience.map(demand::audience).transpose();
        let on_stale = self.stale.map(demand::on_stale).transpose();
        Ok(Demand {
            need,
            audience: audience.map_err(wrong("audience"))?,
            on_stale: on_stale.map_err(wrong("stale"))?.unwrap_or_default(),
            optional: match self.optional {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(wrong("optional")("write 'true' or 'false'".to_owned())),
            },
        })
    }
}

fn wrong(name: &str) -> impl Fn(String) -> Unanswerable {
    move |why| Unanswerable::Misconfigured(format!("{PREFIX}{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::path::PathRefusal;
    use super::super::{HeaderValue, OnStale};
    use super::*;

    struct Environment;

    impl Headers for Environment {
        fn header(&self, name: &str) -> HeaderValue<'_> {
            match name {
                "x-environment" => HeaderValue::One("prod"),
                _ => HeaderValue::Absent,
            }
        }
    }

    /// Keys are given as `name=value`, and what comes out as a word or two.
    fn check(keys: &[&'static str], path: &'static str, expected: &str) {
        let pairs = keys
            .iter()
            .map(|pair| pair.split_once('=').expect("name=value"));
        let request = Request {
            host: "any",
            method: "GET",
            path,
        };
        let told = match by_extensions(pairs, &request, &Environment) {
            None => "none".to_owned(),
            Some(Err(why)) => format!("{why:?}"),
            Some(Ok(needed)) => {
                let need = needed.need.as_ref();
                let need = need.map(|(action, resource)| format!("{action}@{resource}"));
                let audience = needed.audience.map(|audience| format!(" for {audience}"));
                let stale = (needed.on_stale == OnStale::Error).then_some(" stale=error");
                let optional = needed.optional.then_some(" optional");
                let rest = [need.as_deref(), audience.as_deref(), stale, optional];
                rest.map(Option::unwrap_or_default).concat()
            }
        };
        assert_eq!(told, expected, "{keys:?} {path}");
    }

    const READ: &str = "latchkey.action=secrets:read";

    #[test]
    fn the_keys_say_what_is_needed() {
        check(&[], "/a", "none");
        check(
            &["virtual_host=x", "latchkey=x", "latchkeyx.action=y"],
            "/a",
            "none",
        );
        check(
            &[READ, "latchkey.resource=acme/web"],
            "/a",
            "secrets:read@acme/web",
        );
        check(
            &["x=y", READ, "latchkey.resource=acme", "z="],
            "/a",
            "secrets:read@acme",
        );
        check(&["latchkey.audience=api"], "/a", " for api");
        check(&["latchkey.stale=error"], "/a", " stale=error");
        check(&["latchkey.stale=deny"], "/a", "");
        check(&["latchkey.optional=true"], "/a", " optional");
        check(&["latchkey.optional=false"], "/a", "");
        let path = "latchkey.path=/p/{project}/{folder=**}";
        let resource = "latchkey.resource=acme/{project}/{header:x-environment}/{folder}";
        check(
            &[path, READ, resource],
            "/p/web/db/x?y",
            "secrets:read@acme/web/prod/db/x",
        );
        check(
            &[path, READ, "latchkey.resource=acme"],
            "/p/web",
            "secrets:read@acme",
        );
        check(&[path], "/p/web", "");
    }

    #[test]
    fn a_request_that_is_not_for_the_path_has_no_route() {
        let path = "latchkey.path=/p/{project}";
        check(&[path], "/q/web", "NoRoute");
        check(&[path], "/p", "NoRoute");
        check(&[path], "/p/web/", "NoRoute");
        check(
            &[path, READ, "latchkey.resource={project}"],
            "/p/web/x",
            "NoRoute",
        );
        check(&[path, "latchkey.optional=true"], "/q", "NoRoute");
    }

    #[test]
    fn a_path_with_two_readings_is_refused_whatever_the_keys_say() {
        let refused = format!("{:?}", Unanswerable::Path(PathRefusal::DotSegment));
        check(&["latchkey.optional=true"], "/a/../b", &refused);
        check(&[READ, "latchkey.resource=acme"], "/a/%2e%2e/b", &refused);
        check(&["latchkey.path=/**"], "/..", &refused);
    }

    #[test]
    fn a_value_that_is_missing_or_no_segment_is_told_by_its_place() {
        let path = "latchkey.path=/p/{a=**}";
        let resource = "latchkey.resource=x/{a}";
        check(&[path, READ, resource], "/p", r#"Value("{a}")"#);
        check(&[path, READ, resource], "/p/a%20b", r#"Value("{a}")"#);
        let header = "latchkey.resource=x/{header:x-none}";
        check(&[READ, header], "/p", r#"Value("{header:x-none}")"#);
    }

    #[test]
    fn a_wrong_key_denies() {
        let wrong = |keys: &[&'static str], hint: &str| {
            let pairs = keys
                .iter()
                .map(|pair| pair.split_once('=').expect("name=value"));
            let request = Request {
                host: "any",
                method: "GET",
                path: "/p/web",
            };
            match by_extensions(pairs, &request, &Environment) {
                Some(Err(Unanswerable::Misconfigured(why))) => {
                    assert!(why.contains(hint), "{keys:?}: {why}");
                }
                other => panic!("{keys:?}: {other:?}"),
            }
        };
        let resource = "latchkey.resource=acme";
        wrong(&["latchkey.=x"], "unknown");
        wrong(&["latchkey.acton=x"], "latchkey.acton is unknown");
        wrong(&["latchkey.Action=x"], "unknown");
        wrong(&[READ, resource, "latchkey.scope=x"], "unknown");
        wrong(&[READ], "come together");
        wrong(&[resource], "come together");
        wrong(&[READ, READ, resource], "twice");
        wrong(
            &["latchkey.action=", resource],
            "latchkey.action: an action is",
        );
        wrong(&["latchkey.action=secrets:*", resource], "latchkey.action");
        wrong(
            &[READ, "latchkey.resource="],
            "latchkey.resource: a resource is",
        );
        wrong(&[READ, "latchkey.resource=acme/**"], "latchkey.resource");
        wrong(
            &[READ, "latchkey.resource=acme/{project}"],
            "no capture of the path",
        );
        wrong(
            &["latchkey.path=/{a}", READ, "latchkey.resource={b}"],
            "no capture",
        );
        wrong(&["latchkey.path=p"], "latchkey.path: a path begins");
        wrong(&["latchkey.path=/p/**/x"], "latchkey.path");
        wrong(&["latchkey.audience="], "latchkey.audience");
        wrong(&["latchkey.stale=allow"], "latchkey.stale");
        wrong(&["latchkey.stale="], "latchkey.stale");
        wrong(&["latchkey.optional=yes"], "latchkey.optional");
        wrong(&["latchkey.optional="], "latchkey.optional");
        wrong(&["latchkey.optional=TRUE"], "latchkey.optional");
    }

    #[test]
    fn a_resource_without_captures_is_borrowed() {
        let pairs = [("latchkey.action", "a:b"), ("latchkey.resource", "acme")];
        let request = Request {
            host: "any",
            method: "GET",
            path: "/p",
        };
        let needed = by_extensions(pairs.into_iter(), &request, &Environment);
        let needed = needed.expect("keys").expect("a need");
        let (action, resource) = needed.need.expect("a need");
        assert!(matches!(action, std::borrow::Cow::Borrowed("a:b")));
        assert!(matches!(resource, std::borrow::Cow::Borrowed("acme")));
    }
}
