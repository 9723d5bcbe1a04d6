//! The `[gate]` table, and lists of networks.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::document::{Problems, Table};
use super::limits;
use crate::gate::GateRules;
use crate::words::shown;

/// Reads the table; what it does not name keeps its default.
pub(super) fn read(mut table: Table<'_>, problems: &mut Problems<'_>) -> GateRules {
    let mut rules = GateRules::default();
    if let Some(count) = limits::count(&mut table, "failures_per_second", problems) {
        rules.failures_per_second = u32::try_from(count).unwrap_or(u32::MAX);
    }
    for (key, field) in [
        ("penalty_unproved", &mut rules.penalty_unproved),
        ("penalty_failed", &mut rules.penalty_failed),
        ("penalty_deadline", &mut rules.penalty_deadline),
        ("penalty_crash", &mut rules.penalty_crash),
        ("penalty_min", &mut rules.penalty_min),
        ("penalty_max", &mut rules.penalty_max),
        ("trust", &mut rules.trust),
    ] {
        if let Some(time) = limits::time(&mut table, key, *field, problems) {
            *field = time;
        }
    }
    if rules.penalty_min > rules.penalty_max {
        let text = "\"penalty_min\" is more than \"penalty_max\"; lower the first or raise the second";
        problems.add(&table.span, text.into());
    }
    rules.exempt = networks(&mut table, "exempt", problems);
    // A source is 64 bits of IPv6; what names fewer addresses means the source that they belong to.
    for net in &mut rules.exempt {
        if let IpNet::V6(v6) = net
            && v6.prefix_len() > 64
        {
            *net = IpNet::new_assert(v6.addr().into(), 64).trunc();
        }
    }
    table.finish(problems);
    rules
}

/// Reads a list of addresses and networks.
pub(super) fn networks(table: &mut Table<'_>, key: &'static str, problems: &mut Problems<'_>) -> Vec<IpNet> {
    const EXPECTED: &str = "[\"10.0.0.0/8\", \"192.0.2.7\"]";
    let Some(texts) = table.value::<Vec<Spanned<String>>>(key, EXPECTED, problems) else { return Vec::new() };
    let mut networks = Vec::new();
    for text in texts.into_inner() {
        let word = text.get_ref();
        match word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net) => networks.push(net.trunc()),
            Err(_) => {
                let wrong = shown(word);
                let instead = "write an address or a network, such as \"192.0.2.7\" or \"10.0.0.0/8\"";
                problems.add(&text.span(), format!("\"{key}\" cannot be \"{wrong}\"; {instead}"));
            }
        }
    }
    networks
}
