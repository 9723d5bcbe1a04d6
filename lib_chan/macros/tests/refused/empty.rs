use lib_chan_macros::protocol;

#[protocol]
trait Names {}

fn main() {}
