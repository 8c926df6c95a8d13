//! Login methods in the YAML file of `apply`: their shape, their settings and how these differ.
//!
//! A method that is named has all its settings from the file: what is not given is the default, as
//! with `service login-method set`. Compared are the settings that the server keeps, so that
//! `10.0.0.1` and `10.0.0.1/32` are the same. Absent: credentials, which no file makes.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::cli::output::{duration, span};
use crate::cli::parse;
use crate::domain::limits::Networks;
use crate::domain::login::{LockoutPolicy, LoginMethod, LoginSettings};
use crate::domain::refusal::Refusal;
use crate::proto::v1;

/// The methods of a service account, all of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Methods {
    #[serde(default, deserialize_with = "given")]
    universal_auth: Option<Settings>,
    #[serde(default, deserialize_with = "given")]
    key_pair: Option<Settings>,
}

/// What holds for a method, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    ttl: Option<String>,
    max_ttl: Option<String>,
    period: Option<String>,
    uses: Option<u32>,
    #[serde(default)]
    networks: Vec<String>,
    #[serde(default)]
    login_networks: Vec<String>,
    lockout: Option<Lockout>,
    #[serde(default)]
    lockout_disabled: bool,
}

/// When failures lock out, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lockout {
    threshold: Option<u32>,
    duration: Option<String>,
    reset: Option<String>,
}

// A method without a value would be none, though it is named: it wants `{}`.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Settings>, D::Error> {
    match Option::deserialize(from)? {
        Some(settings) => Ok(Some(settings)),
        None => Err(serde::de::Error::custom(
            "a login method wants its settings; `{}` is the defaults",
        )),
    }
}

impl Methods {
    /// Each method that is named, with its settings.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn settings(&self) -> Result<Vec<(LoginMethod, LoginSettings)>, String> {
        let named = LoginMethod::ALL
            .into_iter()
            .filter_map(|method| Some((method, self.named(method)?)));
        named
            .map(|(method, settings)| {
                let settings = settings.read();
                let settings = settings.map_err(|error| format!("{method}, {error}"))?;
                Ok((method, settings))
            })
            .collect()
    }

    fn named(&self, method: LoginMethod) -> Option<&Settings> {
        match method {
            LoginMethod::UniversalAuth => self.universal_auth.as_ref(),
            LoginMethod::KeyPair => self.key_pair.as_ref(),
        }
    }
}

impl Settings {
    fn read(&self) -> Result<LoginSettings, String> {
        let usual = LoginSettings::default();
        let lockout = match (&self.lockout, self.lockout_disabled) {
            (Some(_), true) => return Err("lockout: is given, and is disabled".to_owned()),
            (None, true) => None,
            (None, false) => usual.lockout,
            (Some(lockout), false) => Some(lockout.read()?),
        };
        let ttl_s = seconds("ttl", self.ttl.as_deref())?;
        let period_s = seconds("period", self.period.as_deref())?;
        // Here they stand by themselves.
        let refused = |refusal: Refusal| refusal.to_string().replacen("settings.", "", 1);
        let settings = LoginSettings {
            ttl_s: LoginSettings::ttl_asked(ttl_s, period_s).map_err(refused)?,
            max_ttl_s: seconds("max_ttl", self.max_ttl.as_deref())?,
            period_s,
            uses: self.uses,
            networks: networks("networks", &self.networks)?,
            login_networks: networks("login_networks", &self.login_networks)?,
            lockout,
        };
        settings.check().map_err(refused)?;
        Ok(settings)
    }
}

impl Lockout {
    fn read(&self) -> Result<LockoutPolicy, String> {
        let usual = LockoutPolicy::default();
        let duration_s = seconds("lockout.duration", self.duration.as_deref())?;
        Ok(LockoutPolicy {
            threshold: self.threshold.unwrap_or(usual.threshold),
            duration_s: duration_s.unwrap_or(usual.duration_s),
            reset_s: seconds("lockout.reset", self.reset.as_deref())?.unwrap_or(usual.reset_s),
        })
    }
}

fn seconds(field: &str, text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else {
        return Ok(None);
    };
    let wrong = |what: &str| format!("{field} {text:?}: {what}");
    let read = parse::lifetime(text).map_err(|error| wrong(&error))?;
    let seconds = u32::try_from(read.as_secs()).map_err(|_| wrong("is too long"))?;
    Ok(Some(seconds))
}

fn networks(field: &str, texts: &[String]) -> Result<Networks, String> {
    Networks::parse(texts)
        .ok_or_else(|| format!("{field}: are at most 32 networks such as 10.0.0.0/8"))
}

/// A method as the server answers it; none for one that this program does not know.
pub(super) fn found(method: &v1::LoginMethod) -> Option<(LoginMethod, LoginSettings)> {
    let kind = u8::try_from(method.kind).ok()?;
    let kind = LoginMethod::from_number(kind)?;
    let settings = method.settings.clone().unwrap_or_default();
    let seconds = |given: Option<&prost_types::Duration>| {
        duration(given).and_then(|given| u32::try_from(given.as_secs()).ok())
    };
    let (usual, policy) = (LoginSettings::default(), LockoutPolicy::default());
    let lockout = settings.lockout.filter(|_| !settings.lockout_disabled);
    let known = LoginSettings {
        ttl_s: seconds(settings.ttl.as_ref()).unwrap_or(usual.ttl_s),
        max_ttl_s: seconds(settings.max_ttl.as_ref()),
        period_s: seconds(settings.period.as_ref()),
        uses: settings.uses,
        networks: Networks::parse(&settings.networks)?,
        login_networks: Networks::parse(&settings.login_networks)?,
        lockout: lockout.map(|lockout| LockoutPolicy {
            threshold: lockout.threshold,
            duration_s: seconds(lockout.duration.as_ref()).unwrap_or(policy.duration_s),
            reset_s: seconds(lockout.reset.as_ref()).unwrap_or(policy.reset_s),
        }),
    };
    Some((kind, known))
}

/// Settings as the server takes them.
pub(super) fn wire(settings: &LoginSettings) -> v1::LoginSettings {
    let time = |seconds: u32| parse::wire_duration(Duration::from_secs(seconds.into()));
    v1::LoginSettings {
        ttl: settings.ttl_given().map(time),
        max_ttl: settings.max_ttl_s.map(time),
        period: settings.period_s.map(time),
        uses: settings.uses,
        networks: settings.networks.iter().collect(),
        login_networks: settings.login_networks.iter().collect(),
        lockout: settings.lockout.map(|policy| v1::LockoutPolicy {
            threshold: policy.threshold,
            duration: Some(time(policy.duration_s)),
            reset: Some(time(policy.reset_s)),
        }),
        lockout_disabled: settings.lockout.is_none(),
    }
}

/// The settings that differ, a line for each.
pub(super) fn differing(wanted: &LoginSettings, known: &LoginSettings) -> Vec<String> {
    let pairs = shown(wanted).into_iter().zip(shown(known));
    pairs
        .filter(|(wanted, known)| wanted != known)
        .map(|((field, text), _)| format!("{field}: {text}"))
        .collect()
}

fn shown(settings: &LoginSettings) -> [(&'static str, String); 7] {
    let time = |seconds: u32| span(Some(Duration::from_secs(seconds.into())));
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let from = |networks: &Networks| match networks.is_empty() {
        true => "anywhere".to_owned(),
        false => networks.iter().collect::<Vec<_>>().join(", "),
    };
    let lockout = settings.lockout.map(|policy| {
        let (lasts, reset) = (time(policy.duration_s), time(policy.reset_s));
        format!("{} failures, for {lasts}, reset {reset}", policy.threshold)
    });
    [
        ("ttl", or_none(settings.ttl_given().map(time))),
        ("max_ttl", or_none(settings.max_ttl_s.map(time))),
        ("period", or_none(settings.period_s.map(time))),
        ("uses", or_none(settings.uses.map(|uses| uses.to_string()))),
        ("networks", from(&settings.networks)),
        ("login_networks", from(&settings.login_networks)),
        ("lockout", or_none(lockout)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(LoginMethod, LoginSettings)>, String> {
        let methods: Methods = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        methods.settings()
    }

    #[test]
    fn what_is_written_is_what_the_server_keeps() {
        let text = "universal_auth: {ttl: 10m, max_ttl: 12h, uses: 5, networks: ['10.1.2.3/8'], \
                    login_networks: ['192.0.2.1'], lockout: {threshold: 5}}\nkey_pair: {}\n";
        let read = read(text).expect("valid");
        assert_eq!(read.len(), 2);
        assert_eq!(
            read[1],
            (LoginMethod::KeyPair, LoginSettings::default()),
            "what is not given is the default"
        );
        for (method, settings) in read {
            let answered = v1::LoginMethod {
                kind: method as i32,
                settings: Some(wire(&settings)),
                set_at_revision: 1,
            };
            let known = found(&answered).expect("known");
            assert_eq!(differing(&settings, &known.1), Vec::<String>::new());
            assert_eq!(known, (method, settings));
        }
    }

    #[test]
    fn what_differs_is_told_setting_by_setting() {
        let all = "key_pair: {ttl: 2h, max_ttl: 12h, uses: 5, networks: ['10.0.0.1'], \
                   login_networks: ['10.0.0.9/8'], lockout_disabled: true}";
        let (_, all) = read(all).expect("valid").remove(0);
        let usual = LoginSettings::default();
        assert_eq!(
            differing(&all, &usual),
            [
                "ttl: 2h",
                "max_ttl: 12h",
                "uses: 5",
                "networks: 10.0.0.1/32",
                "login_networks: 10.0.0.0/8",
                "lockout: none",
            ]
        );
        assert_eq!(
            differing(&usual, &all).last().map(String::as_str),
            Some("lockout: 3 failures, for 5m, reset 30s")
        );
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, part: &str| {
            let error = read(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        };
        check("universal_auth:\n", "`{}` is the defaults");
        check("password: {}\n", "password");
        check("key_pair: {ttl: soon}\n", "key_pair, ttl \"soon\"");
        check("key_pair: {ttl: 1500ms}\n", "whole seconds");
        check("key_pair: {max_ttl: 200years}\n", "too long");
        check("key_pair: {networks: [here]}\n", "key_pair, networks");
        check("key_pair: {period: 1h, ttl: 1h}\n", "key_pair, period");
        check("key_pair: {period: 1h, uses: 5}\n", "key_pair, period");
        check("key_pair: {uses: 0}\n", "key_pair, uses");
        check(
            "key_pair: {lockout: {threshold: 2}, lockout_disabled: true}\n",
            "disabled",
        );
    }
}
