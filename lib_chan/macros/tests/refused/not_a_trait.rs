use lib_chan_macros::protocol;

#[protocol]
struct Names;

fn main() {}
