//! Every form of a URL, and every fault.

use std::str::FromStr;

use super::*;

const PIN: &str = "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const NEXT: &str = "sha256:_____________________________________________"; // two characters too many

fn parse(text: &str) -> ChanUrl {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_form_round_trips() {
    for text in [
        format!("chan://localhost:1234/name_server?pin={PIN}"),
        format!("chan://joe@10.0.0.1:1/a.b-c_D?pin={PIN},{PIN}"),
        "chan://[2001:db8::1]:65535/s?system".into(),
        "chan://joe@a.net:1,10.0.0.1:2,[::1]:3/s?system".into(),
        "chan://example.net:1234/s?tofu".into(),
        "chan://example.net:1234/s?ca=/etc/a%20b%25c/r%C3%B6%26%3D.pem".into(),
        "chan://example.net:1234/s?ca=ca.pem".into(),
    ] {
        let url = parse(&text);
        assert_eq!(url.to_string(), text);
        assert_eq!(parse(&url.to_string()), url);
    }
}

#[test]
fn decodes_ca_file() {
    let url = parse("chan://h:1/s?ca=/a%20b/%C3%B6.pem");
    assert_eq!(url.trust(), &Trust::Ca("/a b/ö.pem".into()));
}

#[test]
fn second_pin_needs_no_hash_name() {
    let short = parse(&format!("chan://h:1/s?pin={PIN},{}", &PIN[7..]));
    assert_eq!(short, parse(&format!("chan://h:1/s?pin={PIN},{PIN}")));
}

#[test]
fn hosts_become_lower_case() {
    for (written, read) in [("Example.NET:1", "example.net:1"), ("[2001:DB8::1]:1", "[2001:db8::1]:1")] {
        assert_eq!(parse(&format!("chan://{written}/s?tofu")).authorities()[0].to_string(), read);
    }
}

#[test]
fn relative_ca_file_becomes_absolute() {
    let url = parse("chan://h:1/s?ca=x.pem").absolute().unwrap();
    assert!(matches!(url.trust, Trust::Ca(file) if file.is_absolute() && file.ends_with("x.pem")));
}

#[test]
fn reports_each_fault_with_its_place() {
    use UrlFault::*;
    let pin_hex = format!("chan://h:1/s?pin=sha256:{}", "0".repeat(64));
    let pin_long = format!("chan://h:1/s?pin={PIN},{NEXT}");
    let name_long = format!("chan://h:1/{}?tofu", "s".repeat(65));
    for (text, at, fault) in [
        ("", 0, Scheme),
        ("https://h:1/s?tofu", 0, Scheme),
        ("chan:/h:1/s?tofu", 0, Scheme),
        ("chan://h:1/s?tofu#x", 17, Character),
        ("chan://h:1/s ?tofu", 12, Character),
        ("chan://joe:secret@h:1/s?tofu", 7, Password),
        ("chan://@h:1/s?tofu", 7, Client),
        ("chan://j oe@h:1/s?tofu", 8, Character),
        ("chan://jö@h:1/s?tofu", 7, Client),
        ("chan:///s?tofu", 7, NoHost),
        ("chan://:1/s?tofu", 7, NoHost),
        ("chan://h/s?tofu", 8, NoPort),
        ("chan://h:/s?tofu", 9, NoPort),
        ("chan://[::1]/s?tofu", 12, NoPort),
        ("chan://::1/s?tofu", 7, Ipv6),
        ("chan://[::1/s?tofu", 7, Ipv6),
        ("chan://[h]:1/s?tofu", 7, Ipv6),
        ("chan://[::1]1/s?tofu", 12, Ipv6),
        ("chan://a..b:1/s?tofu", 7, Host),
        ("chan://ü:1/s?tofu", 7, Host),
        ("chan://ü", 8, NoPort),
        ("chan://h:0/s?tofu", 9, Port),
        ("chan://h:1,/s?tofu", 11, NoHost),
        ("chan://,h:1/s?tofu", 7, NoHost),
        ("chan://h:1,g/s?tofu", 12, NoPort),
        ("chan://h:1,g:0,i:1/s?tofu", 13, Port),
        ("chan://h:+1/s?tofu", 9, Port),
        ("chan://h:65536/s?tofu", 9, Port),
        ("chan://h:1?tofu", 10, NoService),
        ("chan://h:1/?tofu", 11, NoService),
        ("chan://h:1/a/b?tofu", 11, Service),
        ("chan://h:1/a%20b?tofu", 11, Service),
        (&name_long, 11, Service),
        ("chan://h:1/s", 12, NoTrust),
        ("chan://h:1/s?", 13, NoTrust),
        ("chan://h:1/s?tofu&system", 18, TwoTrusts),
        ("chan://h:1/s?ca=a&ca=b", 18, TwoTrusts),
        ("chan://h:1/s?insecure", 13, UnknownTrust),
        ("chan://h:1/s?none=1", 13, UnknownTrust),
        ("chan://h:1/s?tofu=1", 13, TrustValue),
        ("chan://h:1/s?pin", 13, TrustValue),
        ("chan://h:1/s?pin=", 17, Pin),
        (&pin_hex, 17, Pin),
        (&pin_long, 17 + PIN.len() + 1, Pin),
        ("chan://h:1/s?ca=", 16, CaFile),
        ("chan://h:1/s?ca=%ff", 16, CaFile),
        ("chan://h:1/s?ca=%2", 16, CaFile),
        ("chan://h:1/s?ca=a%zz", 16, CaFile),
        ("chan://h:1/s?ca=a%00", 16, CaFile),
    ] {
        assert_eq!(ChanUrl::from_str(text), Err(UrlError { at, fault }), "{text}");
    }
}

#[test]
fn error_gives_advice_and_repeats_no_secret() {
    let error = ChanUrl::from_str("chan://joe:hunter2@h:1/s?tofu").unwrap_err().to_string();
    assert_eq!(
        error,
        "the URL at character 8: a password does not belong in a URL, where others can read it; \
         remove it, change it if others may have seen it, and keep it in a file"
    );
}
