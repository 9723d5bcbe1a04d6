use lib_chan_macros::Schema;

#[derive(Schema)]
union Number {
    small: u8,
    large: u64,
}

#[derive(Schema)]
struct Flat {
    #[serde(flatten)]
    inner: u8,
}

#[derive(Schema)]
#[serde(rename_all = "sPoNgE")]
enum Case {
    One,
}

fn main() {}
