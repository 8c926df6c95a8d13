//! What Envoy's own route says that a request needs: the `latchkey.` keys of `context_extensions`.
//!
//! They are set by who configures Envoy, never by a client, and come with every request; so they
//! are read without allocating. Where one of them is wrong, or unknown, the request is denied: a
//! misspelt key must not mean that nothing is asked.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::demand::{self, Demand};
use super::path::Path;
use super::template::{PathTemplate, ResourceTemplate};
use super::withheld::Withheld;
use super::{Headers, Needed, OnStale, Request, Unanswerable};

const PREFIX: &str = "latchkey.";

/// Routes in Envoy whose keys are remembered.
const KNOWN_MAX: usize = 1_024;

/// The keys as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Keys<T> {
    action: Option<T>,
    resource: Option<T>,
    path: Option<T>,
    audience: Option<T>,
    stale: Option<T>,
    optional: Option<T>,
}

impl Keys<Box<str>> {
    fn is(&self, other: &Keys<&str>) -> bool {
        self.action.as_deref() == other.action
            && self.resource.as_deref() == other.resource
            && self.path.as_deref() == other.path
            && self.audience.as_deref() == other.audience
            && self.stale.as_deref() == other.stale
            && self.optional.as_deref() == other.optional
    }
}

/// Keys that are known to be right, so that those of a route are checked once and not for each of
/// its requests. Read without a lock; a new one is added to a copy.
#[derive(Debug, Default)]
pub struct Extensions {
    withheld: Withheld,
    known: ArcSwap<HashMap<u64, Keys<Box<str>>, RandomState>>,
    hash: RandomState,
}

impl Extensions {
    /// Nothing is known yet; no resource is made of a header that is withheld.
    #[must_use]
    pub fn new(withheld: Withheld) -> Self {
        Self {
            withheld,
            ..Self::default()
        }
    }

    /// What a request needs by the keys that came with it; `None` when none of them is Latchkey's.
    pub fn needed<'a>(
        &self,
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
        Some(self.checked(&keys?).and_then(|(template, demand)| {
            // Envoy took this route by the path as it came: another spelling would have missed
            // the routes before it.
            let path = Path::as_compared(request.path)?;
            if template.is_some_and(|template| !template.matches(&path)) {
                return Err(Unanswerable::NoRoute);
            }
            demand.needed(template, &path, headers)
        }))
    }

    fn checked<'a>(
        &self,
        keys: &Keys<&'a str>,
    ) -> Result<(Option<PathTemplate<'a>>, Demand<'a>), Unanswerable> {
        let hash = self.hash.hash_one(keys);
        let known = self.known.load();
        if known.get(&hash).is_some_and(|known| known.is(keys)) {
            return Ok(keys.known());
        }
        let checked = keys.checked(&self.withheld)?;
        self.known.rcu(|known| {
            // Operators write few of them; where they write many, the newest are kept.
            let mut known = match known.len() < KNOWN_MAX {
                true => HashMap::clone(known),
                false => HashMap::default(),
            };
            known.insert(hash, keys.owned());
            known
        });
        Ok(checked)
    }
}

impl<'a> Keys<&'a str> {
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

    /// What they ask for, checked.
    fn checked(
        &self,
        withheld: &Withheld,
    ) -> Result<(Option<PathTemplate<'a>>, Demand<'a>), Unanswerable> {
        let template = match self.path {
            Some(text) => Some(PathTemplate::parse(text).map_err(wrong("path"))?),
            None => None,
        };
        Ok((template, self.demand(template, withheld)?))
    }

    /// The same of keys that were checked before.
    fn known(&self) -> (Option<PathTemplate<'a>>, Demand<'a>) {
        let need = self.action.zip(self.resource);
        let demand = Demand {
            need: need.map(|(action, resource)| (action, ResourceTemplate::known(resource))),
            audience: self.audience,
            on_stale: match self.stale {
                Some("error") => OnStale::Error,
                _ => OnStale::Deny,
            },
            optional: self.optional == Some("true"),
        };
        (self.path.map(PathTemplate::known), demand)
    }

    fn owned(&self) -> Keys<Box<str>> {
        Keys {
            action: self.action.map(Box::from),
            resource: self.resource.map(Box::from),
            path: self.path.map(Box::from),
            audience: self.audience.map(Box::from),
            stale: self.stale.map(Box::from),
            optional: self.optional.map(Box::from),
        }
    }

    fn demand(
        &self,
        template: Option<PathTemplate<'_>>,
        withheld: &Withheld,
    ) -> Result<Demand<'a>, Unanswerable> {
        let need = match (self.action, self.resource) {
            (Some(action), Some(resource)) => {
                let read = demand::need(action, resource, template, withheld);
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
        let extensions = Extensions::default();
        let needed = extensions.needed(pairs.clone(), &request, &Environment);
        // Keys that were checked before mean the same.
        assert_eq!(extensions.needed(pairs, &request, &Environment), needed);
        let told = match needed {
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
            let withheld = Withheld::with(std::iter::once("x-acme-token"));
            match Extensions::new(withheld).needed(pairs, &request, &Environment) {
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
        let secret = "latchkey.resource=acme/{header:x-api-key}";
        wrong(
            &[READ, secret],
            "latchkey.resource: '{header:x-api-key}': a credential",
        );
        let set = "latchkey.resource=acme/{header:x_acme_token}";
        wrong(&[READ, set], "a credential");
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
        let extensions = Extensions::default();
        let needed = extensions.needed(pairs.into_iter(), &request, &Environment);
        let needed = needed.expect("keys").expect("a need");
        let (action, resource) = needed.need.expect("a need");
        assert!(matches!(action, std::borrow::Cow::Borrowed("a:b")));
        assert!(matches!(resource, std::borrow::Cow::Borrowed("acme")));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_told_apart() {
        let extensions = Extensions::default();
        let resources: Vec<String> = (0..=KNOWN_MAX).map(|n| format!("acme/{n}")).collect();
        for _ in 0..2 {
            for resource in &resources {
                let pairs = [
                    ("latchkey.action", "a:b"),
                    ("latchkey.resource", resource.as_str()),
                ];
                let request = Request {
                    host: "any",
                    method: "GET",
                    path: "/p",
                };
                let needed = extensions.needed(pairs.into_iter(), &request, &Environment);
                let need = needed.expect("keys").expect("right").need.expect("a need");
                assert_eq!(need.1, *resource);
                assert!(extensions.known.load().len() <= KNOWN_MAX);
            }
        }
        // What is wrong is not remembered.
        let wrong = [("latchkey.action", "a:b"), ("latchkey.resource", "acme//")];
        let before = extensions.known.load().len();
        for _ in 0..2 {
            let request = Request {
                host: "any",
                method: "GET",
                path: "/p",
            };
            let needed = extensions.needed(wrong.into_iter(), &request, &Environment);
            assert!(matches!(needed, Some(Err(Unanswerable::Misconfigured(_)))));
        }
        assert_eq!(extensions.known.load().len(), before);
    }
}
