//! Generates tonic's client and server without a protocol compiler: the service is described here.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name, route, input, output| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(input)
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
    };
    let note = "crate::net::tonic::Note";
    let service = Service::builder()
        .name("Bench")
        .package("bench")
        .method(method("echo", "Echo", note, note).build())
        .method(method("fetch", "Fetch", note, note).build())
        .method(method("take", "Take", note, "crate::net::tonic::Tally").client_streaming().build())
        .build();
    Builder::new().compile(&[service]);
    println!("cargo::rerun-if-changed=build.rs");
}
