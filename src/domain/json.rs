//! JSON that is read in one way only: an object in which no member stands twice, at any depth.
//!
//! Used for what is signed: of two members with one name one reader takes the first and another
//! the last, so that what was checked is not what is obeyed (RFC 8725, section 2.4). Only what is
//! asked for is kept: texts, whole numbers and lists of them. Absent: writing.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value, as far as somebody asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Text(String),
    /// A number of seconds, say; fractions, signs and what is beyond 64 bits are [`Json::Other`].
    Whole(u64),
    List(Vec<Self>),
    Object(Object),
    Other,
}

/// The members of an object, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object(Vec<(String, Json)>);

impl Object {
    /// Reads an object and nothing after it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        match serde_json::from_slice(bytes) {
            Ok(Json::Object(object)) => Some(object),
            _ => None,
        }
    }

    pub(super) fn member(&self, name: &str) -> Option<&Json> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut object = Object::default();
        while let Some(name) = from.next_key::<String>()? {
            if object.member(&name).is_some() {
                return Err(Error::custom("a member stands twice"));
            }
            object.0.push((name, from.next_value()?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let check = |text: &str, good: bool| {
            assert_eq!(Object::parse(text.as_bytes()).is_some(), good, "{text}");
        };
        check("{}", true);
        check(r#"{"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]}"#, true);
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"a":1,"\u0061":2}"#, false);
        check(r#"{"b":{"a":1,"a":2}}"#, false);
        check(r#"{"b":[0,{"a":1,"a":2}]}"#, false);
        check(r#"{"a":1} "#, true);
        check(r#"{"a":1}{}"#, false);
        check(r#"{"a":1,}"#, false);
        check(r#"{"a":NaN}"#, false);
        check(r#"{'a':1}"#, false);
        check(r#"["a"]"#, false);
        check(r#""a""#, false);
        check("", false);
        check(&"[".repeat(100_000), false);
        check(
            &format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200)),
            false,
        );
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn only_whole_numbers_are_numbers() {
        let check = |text: &str, expected: Json| {
            let object = Object::parse(format!("{{\"a\":{text}}}").as_bytes());
            assert_eq!(object.expect(text).member("a"), Some(&expected), "{text}");
        };
        check("0", Json::Whole(0));
        check("18446744073709551615", Json::Whole(u64::MAX));
        for text in ["18446744073709551616", "-1", "1.0", "1e3", "true", "null"] {
            check(text, Json::Other);
        }
        check(
            "[\"a\", 1]",
            Json::List(vec![Json::Text("a".to_owned()), Json::Whole(1)]),
        );
    }
}
