//! What the program is given in its pod: the image's environment, the container's over it, arguments
//! and the rendered file.
//!
//! A variable goes before a file, so that a file alone says little of what will be in force.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Rendered, ours, sets};
use crate::image;
use crate::program::{fresh, latchkey, run};

/// Where the rendered file is mounted.
const FILE: &str = "/etc/latchkey/settings/latchkey.toml";

/// The container of a pod that serves, or does its work.
pub(super) fn main_of(pod: &Value) -> &Value {
    ours(pod).last().expect("a container of ours")
}

pub(super) fn words(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it.as_str().expect("a text")).collect()
}

/// The settings as they are rendered.
#[track_caller]
pub(super) fn text_of(rendered: &Rendered) -> String {
    let (_, pod) = rendered.server();
    let name = &pod["volumes"][0]["configMap"]["name"];
    let mut maps = rendered.all("ConfigMap");
    let map = maps.find(|it| it["metadata"]["name"] == *name);
    let map = map.expect("the settings");
    map["data"]["latchkey.toml"]
        .as_str()
        .expect("a text")
        .to_owned()
}

/// The variables of a container, in a pod that has this address.
fn environment(container: &Value, image: &Path, ip: &str) -> BTreeMap<String, String> {
    let mut all = image::environment(image);
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let text = match (variable["value"].as_str(), field.as_str()) {
            (Some(text), _) => text.to_owned(),
            (None, Some("status.podIP")) => ip.to_owned(),
            (None, Some("metadata.name")) => "latchkey-0".to_owned(),
            (None, Some(other)) => panic!("{other}"),
            // An entry of a Secret.
            (None, None) => String::new(),
        };
        let known = all.iter();
        let text = known.fold(text, |text, (name, value)| {
            text.replace(&format!("$({name})"), value)
        });
        let name = variable["name"].as_str().expect("a name").to_owned();
        all.insert(name, text);
    }
    all
}

/// What the program takes all of it for, in a pod that has this address.
#[track_caller]
fn settings_at(rendered: &Rendered, ip: &str) -> Value {
    let folder = fresh();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, text_of(rendered)).expect("written");
    let container = main_of(rendered.server().1);
    let mut arguments = words(&container["args"]);
    let named = arguments.iter().position(|it| *it == FILE).expect("a file");
    arguments[named] = file.to_str().expect("a text");
    arguments.extend(["--print-config", "--output", "json"]);
    let mut command = latchkey();
    command.args(arguments);
    command.envs(environment(container, folder.path(), ip));
    run(command, "").json()
}

#[track_caller]
pub(super) fn settings(rendered: &Rendered) -> Value {
    settings_at(rendered, "10.1.2.3")
}

#[test]
fn a_pod_listens_and_is_reached_by_its_address_of_either_family() {
    let check = |values: &str, ip: &str, listen: &str, reached: &str| {
        let settings = settings_at(&Rendered::of(values), ip);
        let said = |path: &str| settings.pointer(path).cloned().expect(path);
        assert_eq!(said("/listen/addr"), format!("{listen}:7421"), "{values}");
        assert_eq!(said("/admin/addr"), format!("{listen}:7422"), "{values}");
        assert_eq!(said("/replica/address"), reached, "{values}, {ip}");
        assert_eq!(said("/replica/name"), "latchkey-0");
    };
    let (four, six) = ("10.1.2.3", "fd00::7");
    check("{}", four, "0.0.0.0", "10.1.2.3:7421");
    check("ipv6: true", six, "[::]", "[fd00::7]:7421");
    // Of both families, the first may be either.
    check("ipv6: true", four, "[::]", "10.1.2.3:7421");
    let secured = "{ipv6: true, tls: {enabled: true, existingSecret: a}}";
    check(secured, six, "[::]", "https://[fd00::7]:7421");
    check(secured, four, "[::]", "https://10.1.2.3:7421");
}

#[test]
fn no_variable_goes_before_the_rendered_file() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let (file, folder) = (text_of(&rendered), fresh());
        let container = main_of(rendered.server().1);
        let environment = environment(container, folder.path(), "10.1.2.3");
        let keys = file.lines().filter_map(|line| line.split_once(" = "));
        for (key, _) in keys {
            let variable = format!("LATCHKEY_{}", key.replace('.', "_").to_uppercase());
            assert!(!environment.contains_key(&variable), "{name}: {variable}");
        }
    }
}
