//! Writes the message enum, the trait for callers and the wire form of a protocol.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{ItemTrait, Type};

use super::{Method, docs};

pub(super) fn generate(item: &ItemTrait, methods: &[Method]) -> TokenStream {
    let (visibility, name) = (&item.vis, &item.ident);
    let message = format_ident!("{name}Message");
    let message_docs = format!("The messages of [`{name}`], as the process that serves it receives them.");
    let attributes = &item.attrs;
    let interface_docs = docs(attributes);
    let interface_name = name.unraw().to_string();

    let variants = methods.iter().map(|method| {
        let Method { variant, attributes, .. } = method;
        let docs = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
        let first = format!("The message of `{}`.", method.name.unraw());
        let fields = method.arguments.iter().map(|(name, ty)| {
            let text = format!("The argument `{}`.", name.unraw());
            quote!(#[doc = #text] #name: #ty,)
        });
        let reply = method.reply.as_ref().map(|ty| {
            quote! {
                /// Answers the call.
                reply: ::lib_chan::Reply<#ty>,
            }
        });
        quote!(#[doc = #first] #[doc = ""] #(#docs)* #variant { #(#fields)* #reply })
    });
    let wire_variants = methods.iter().map(|Method { variant, arguments, .. }| {
        let fields = arguments.iter().map(|(name, ty)| quote!(#name: #ty,));
        quote!(#variant { #(#fields)* })
    });
    let declared = methods.iter().map(|method| {
        let (attributes, signature) = (&method.attributes, signature(method));
        quote!(#(#attributes)* #signature;)
    });
    let callers = methods.iter().map(|method| caller(method, &message));
    let casts = methods.iter().map(|Method { variant, arguments, reply, .. }| {
        let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
        match reply {
            None => quote!(__Wire::#variant { #(#names),* } => ::core::option::Option::Some(Self::#variant { #(#names),* })),
            // Nobody waits for a word about it.
            Some(_) => quote!(__Wire::#variant { .. } => ::core::option::Option::None),
        }
    });
    let calls = methods.iter().map(|Method { name, variant, arguments, reply, .. }| {
        let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
        let text = format!("`{}` is a cast: it has no answer, so it cannot be called", name.unraw());
        match reply {
            Some(_) => quote! {
                __Wire::#variant { #(#names),* } => ::core::option::Option::Some(Self::#variant {
                    #(#names,)*
                    reply: __reply().typed(),
                })
            },
            None => quote! {
                __Wire::#variant { .. } => {
                    __reply().refuse(#text);
                    ::core::option::Option::None
                }
            },
        }
    });
    let borrowed_variants = methods.iter().map(|Method { variant, arguments, .. }| {
        let fields = arguments.iter().map(|(name, ty)| quote!(#name: &'a #ty,));
        quote!(#variant { #(#fields)* })
    });
    let borrows = methods.iter().map(|Method { variant, arguments, .. }| {
        let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
        quote!(Self::#variant { #(#names,)* .. } => __Borrowed::#variant { #(#names),* })
    });
    let are_calls = methods.iter().map(|Method { variant, reply, .. }| {
        let is_call = reply.is_some();
        quote!(Self::#variant { .. } => #is_call)
    });
    let replies = methods.iter().map(|Method { variant, reply, .. }| match reply {
        Some(_) => quote! {
            Self::#variant { reply, .. } => ::core::option::Option::Some(reply.pass_on())
        },
        None => quote!(Self::#variant { .. } => ::core::option::Option::None),
    });
    let shown = methods.iter().map(|Method { variant, .. }| {
        let text = variant.to_string();
        quote!(Self::#variant { .. } => #text)
    });
    let described = methods.iter().map(|method| {
        let (variant, docs) = (method.variant.to_string(), method.docs());
        let arguments = method.arguments.iter().map(|(name, ty)| {
            let name = name.unraw().to_string();
            quote!(.argument::<#ty>(#name))
        });
        let reply = method.reply.as_ref().map(|ty| quote!(.reply::<#ty>()));
        quote!(interface.add(::lib_chan::protocol::Method::new(#variant, #docs) #(#arguments)* #reply);)
    });

    quote! {
        #(#attributes)*
        #visibility trait #name: ::lib_chan::protocol::Caller<#message> {
            #(#declared)*
        }

        #[doc = #message_docs]
        #visibility enum #message {
            #(#variants,)*
        }

        const _: () = {
            #[doc(hidden)]
            #[allow(clippy::large_enum_variant, reason = "it lives for a moment")]
            #[derive(::lib_chan::__private::serde::Serialize, ::lib_chan::__private::serde::Deserialize)]
            #[serde(crate = "::lib_chan::__private::serde")]
            pub enum __Wire {
                #(#wire_variants,)*
            }

            #[derive(::lib_chan::__private::serde::Serialize)]
            #[serde(crate = "::lib_chan::__private::serde")]
            enum __Borrowed<'a> {
                #(#borrowed_variants,)*
                #[serde(skip)]
                #[allow(dead_code, reason = "uses the lifetime")]
                __Nothing(::core::marker::PhantomData<&'a ()>),
            }

            impl<__C: ::lib_chan::protocol::Caller<#message>> #name for __C {
                #(#callers)*
            }

            impl ::lib_chan::protocol::Protocol for #message {
                type Wire = __Wire;

                const NAME: &'static str = #interface_name;

                fn interface() -> &'static ::lib_chan::protocol::Interface {
                    static INTERFACE: ::std::sync::LazyLock<::lib_chan::protocol::Interface> =
                        ::std::sync::LazyLock::new(|| {
                            let mut interface =
                                ::lib_chan::protocol::Interface::new(#interface_name, #interface_docs);
                            #(#described)*
                            interface
                        });
                    &INTERFACE
                }

                fn encode(
                    &self,
                    codec: ::lib_chan::payload::Codec,
                    max: usize,
                    out: &mut ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<::lib_chan::__private::Carried, ::lib_chan::payload::PayloadError>
                {
                    let message = match self {
                        #(#borrows,)*
                    };
                    ::lib_chan::__private::encode_value_in_message(codec, &message, max, out)
                }

                fn is_call(&self) -> bool {
                    match self {
                        #(#are_calls,)*
                    }
                }

                fn into_reply(self) -> ::core::option::Option<::lib_chan::PassedReply> {
                    match self {
                        #(#replies,)*
                    }
                }
            }

            impl ::lib_chan::protocol::Transmit for #message {
                fn protocol() -> ::core::option::Option<&'static ::lib_chan::protocol::Interface> {
                    ::core::option::Option::Some(<Self as ::lib_chan::protocol::Protocol>::interface())
                }
            }

            impl ::lib_chan::protocol::Receive for #message {
                type Item = Self;

                fn protocol() -> ::core::option::Option<&'static ::lib_chan::protocol::Interface> {
                    ::core::option::Option::Some(<Self as ::lib_chan::protocol::Protocol>::interface())
                }

                fn decode_cast(
                    codec: ::lib_chan::payload::Codec,
                    payload: &::lib_chan::__private::Bytes,
                ) -> ::core::result::Result<::core::option::Option<Self>, ::lib_chan::payload::PayloadError> {
                    ::core::result::Result::Ok(match ::lib_chan::payload::decode(codec, payload)? {
                        #(#casts,)*
                    })
                }

                fn decode_call(
                    codec: ::lib_chan::payload::Codec,
                    payload: &::lib_chan::__private::Bytes,
                    __reply: impl ::core::ops::FnOnce() -> ::lib_chan::Reply,
                ) -> ::core::result::Result<::core::option::Option<Self>, ::lib_chan::payload::PayloadError> {
                    ::core::result::Result::Ok(match ::lib_chan::payload::decode(codec, payload)? {
                        #(#calls,)*
                    })
                }
            }

            /// Shows the name of the method only, so that no argument needs to be shown.
            impl ::core::fmt::Debug for #message {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.write_str(match self {
                        #(#shown,)*
                    })
                }
            }
        };
    }
}

/// The method of the trait for callers, without its body.
fn signature(method: &Method) -> TokenStream {
    let Method { name, arguments, reply, .. } = method;
    let parameters = arguments.iter().map(|(name, ty)| match is_string(ty) {
        true => quote!(#name: impl ::core::convert::Into<#ty>),
        false => quote!(#name: #ty),
    });
    let result = match reply {
        None => quote!(::core::result::Result<(), ::lib_chan::CastError>),
        Some(answer) => quote!(::core::result::Result<#answer, ::lib_chan::CallError>),
    };
    quote! {
        fn #name(&self, #(#parameters),*) -> impl ::core::future::Future<Output = #result> + ::core::marker::Send
    }
}

/// The method of the trait for callers. One function makes the wire form of the arguments, for a far process, and one the
/// message, for a local process.
fn caller(method: &Method, message: &Ident) -> TokenStream {
    let Method { variant, arguments, reply, .. } = method;
    let signature = signature(method);
    let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
    let types: Vec<_> = arguments.iter().map(|(_, ty)| ty).collect();
    let values = arguments.iter().map(|(name, ty)| match is_string(ty) {
        true => quote!(::core::convert::Into::<#ty>::into(#name)),
        false => quote!(#name),
    });
    let (function, reply) = match reply {
        None => (quote!(cast_with), None),
        Some(_) => (quote!(call_with), Some(quote!(reply))),
    };
    quote! {
        #signature {
            ::lib_chan::protocol::Caller::#function(
                self,
                (#(#values,)*),
                |(#(#names,)*): (#(#types,)*)| __Wire::#variant { #(#names),* },
                |(#(#names,)*): (#(#types,)*), #reply| #message::#variant { #(#names,)* #reply },
            )
        }
    }
}

fn is_string(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.qself.is_none() && path.path.is_ident("String"))
}
