//! What `protocol` and `Schema` refuse, and what they say.

#[test]
fn refuses_what_is_no_protocol() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
