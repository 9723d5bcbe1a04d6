//! The macros of `lib_chan`, which exports them: see `lib_chan::protocol` there.

use proc_macro::TokenStream;

mod protocol;
mod schema;

/// Makes a protocol of a trait: see the module `protocol` of `lib_chan`.
#[proc_macro_attribute]
pub fn protocol(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expanded(protocol::expand(arguments.into(), item.into()))
}

/// Describes a type in the schema of a protocol: see the module `protocol` of `lib_chan`.
#[proc_macro_derive(Schema, attributes(serde))]
pub fn schema(item: TokenStream) -> TokenStream {
    expanded(schema::expand(item.into()))
}

fn expanded(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.into_compile_error()).into()
}
