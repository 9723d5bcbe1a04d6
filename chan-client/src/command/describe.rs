//! The protocol of a service, for people and for the line editor.

use lib_chan::protocol::{Interface, Method};
use lib_chan::signals;
use serde_json::json;

use super::arguments::Access;
use super::failure::Failure;
use super::notice::Notice;
use super::{block_on, print_line};
use crate::json::{compact, one_line};

pub(super) fn describe(access: &Access, json: bool, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?;
    let interface = block_on(async {
        notice.during(&mut signals::subscribe(), async { Ok(way.connect(notice).describe().await?) }).await
    })?;
    print_line(&if json { as_json(&interface)? } else { as_text(&interface) })
}

/// Returns the documented text, without characters that a terminal would interpret.
fn as_text(interface: &Interface) -> String {
    interface.documented().lines().map(one_line).collect::<Vec<_>>().join("\n")
}

fn as_json(interface: &Interface) -> Result<String, Failure> {
    let method = |method: &Method| {
        let argument = |(name, ty)| json!({"name": name, "type": ty});
        let kind = if method.answer().is_some() { "call" } else { "cast" };
        json!({
            "name": method.name(),
            "kind": kind,
            "docs": method.docs(),
            "arguments": method.arguments().map(argument).collect::<Vec<_>>(),
            "reply": method.answer(),
        })
    };
    let interface = json!({
        "protocol": interface.name(),
        "docs": interface.docs(),
        "methods": interface.methods().iter().map(method).collect::<Vec<_>>(),
    });
    compact(&interface.to_string()).map_err(Failure::local)
}

/// A line that the line editor can complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// The name of the method.
    name: String,
    /// The method with its arguments and reply.
    pub(super) shown: String,
    /// The beginning of a line that sends its message.
    pub(super) line: String,
}

/// Returns the completions for the methods of a protocol.
pub(super) fn completions(interface: &Interface) -> Vec<Completion> {
    let completion = |method: &Method| {
        let (name, cast) = (method.name(), method.answer().is_none());
        let argument = match method.arguments().next() {
            Some((argument, _)) => format!("{{\"{argument}\":"),
            None => "{}}".into(),
        };
        let sign = if cast { "! " } else { "" };
        Completion {
            name: name.into(),
            shown: one_line(&method.to_string()),
            line: one_line(&format!("{sign}{{\"{name}\":{argument}")),
        }
    };
    interface.methods().iter().map(completion).collect()
}

/// Returns the completions of a typed line: the name of a method, or the JSON of a message up to it.
pub(super) fn matching<'c>(line: &str, all: &'c [Completion]) -> Vec<&'c Completion> {
    let typed = line.trim_start().trim_start_matches('!').trim_start();
    let typed = typed.strip_prefix('{').unwrap_or(typed).trim_start();
    let typed = typed.strip_prefix('"').unwrap_or(typed).to_lowercase();
    all.iter().filter(|completion| completion.name.to_lowercase().starts_with(&typed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Interface {
        "# A store.\nprotocol Names\n# Says \u{202e}x.\ncast Store(key: String, value: String)\n\
         call Lookup(key: String) -> Option<String>\ncall Size() -> u64\n"
            .parse()
            .unwrap()
    }

    #[test]
    fn text_has_docs_and_no_control_characters() {
        let text = as_text(&names());
        assert!(text.starts_with("# A store.\nprotocol Names\n# Says \\u{202e}x.\ncast Store("), "{text}");
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn json_has_methods_with_kinds_and_types() {
        let described: serde_json::Value = serde_json::from_str(&as_json(&names()).unwrap()).unwrap();
        assert_eq!(described["protocol"], "Names");
        assert_eq!(described["methods"][0]["kind"], "cast");
        assert_eq!(described["methods"][0]["arguments"][1], json!({"name": "value", "type": "String"}));
        assert_eq!(described["methods"][1]["reply"], "Option<String>");
        assert_eq!(described["methods"][0]["reply"], json!(null));
    }

    #[test]
    fn completes_names_to_messages() {
        let all = completions(&names());
        let lines =
            |typed| matching(typed, &all).into_iter().map(|one| one.line.as_str()).collect::<Vec<_>>();
        let (store, lookup, size) = ("! {\"Store\":{\"key\":", "{\"Lookup\":{\"key\":", "{\"Size\":{}}");
        assert_eq!(lines(""), [store, lookup, size]);
        assert_eq!(lines("loo"), [lookup]);
        assert_eq!(lines("{\"S"), [store, size]);
        assert_eq!(lines("! { \"St"), [store]);
        assert_eq!(lines("{\"Lookup\":"), Vec::<&str>::new());
        assert_eq!(all[1].shown, "call Lookup(key: String) -> Option<String>");
    }
}
