//! The attribute `protocol`: checks the trait, then writes the message enum, the trait for callers and the wire form.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Attribute, Error, FnArg, ItemTrait, Pat, ReturnType, TraitItem, TraitItemFn, Type, parse2};

/// The methods that `Remote`, `Address` or `Within` have, or may get. A method of a protocol with such a name would be
/// hidden behind it. A test of `lib_chan` compares the list with its sources.
pub(crate) const RESERVED: &[&str] = &[
    "call",
    "call_into",
    "call_within",
    "cast",
    "cast_all",
    "cast_events",
    "cast_latest",
    "children",
    "clone",
    "close",
    "codec",
    "connection",
    "connection_changed",
    "draining",
    "end",
    "ended",
    "flush",
    "fmt",
    "grant",
    "hand_out",
    "handed",
    "info",
    "is_far",
    "max_payload_len",
    "monitor_connection",
    "pid",
    "revoke",
    "send",
    "start_child",
    "stop",
    "stop_child",
    "taken",
    "try_cast",
    "try_send",
    "wait_draining",
    "within",
];

struct Method {
    name: Ident,
    /// The variant of the message, which is also the name on the wire.
    variant: Ident,
    attributes: Vec<Attribute>,
    arguments: Vec<(Ident, Type)>,
    /// The type of the answer of a call; `None` for a cast.
    reply: Option<Type>,
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "`protocol` takes no arguments"));
    }
    let item: ItemTrait =
        parse2(item).map_err(|error| Error::new(error.span(), "`protocol` belongs on a trait"))?;
    let mut problems = Problems(None);
    check_trait(&item, &mut problems);
    let mut methods: Vec<Method> = Vec::new();
    for entry in &item.items {
        match entry {
            TraitItem::Fn(function) => match Method::read(function) {
                Ok(method) => {
                    if let Some(other) = methods.iter().find(|other| other.variant == method.variant) {
                        problems.add(Error::new(
                            method.name.span(),
                            format!(
                                "`{}` and `{}` have the same name on the wire, `{}`",
                                other.name, method.name, method.variant
                            ),
                        ));
                    }
                    methods.push(method);
                }
                Err(error) => problems.add(error),
            },
            other => problems.add(Error::new_spanned(other, "a protocol has methods only")),
        }
    }
    if item.items.is_empty() {
        problems.add(Error::new(item.ident.span(), "a protocol needs a method"));
    }
    problems.none()?;
    Ok(generate(&item, &methods))
}

/// All mistakes are reported together.
struct Problems(Option<Error>);

impl Problems {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn none(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

fn check_trait(item: &ItemTrait, problems: &mut Problems) {
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        problems.add(Error::new_spanned(&item.generics, "a protocol has no generic parameters"));
    }
    if !item.supertraits.is_empty() {
        problems.add(Error::new_spanned(&item.supertraits, "a protocol has no supertraits"));
    }
    if let Some(unsafety) = &item.unsafety {
        problems.add(Error::new_spanned(unsafety, "a protocol is not `unsafe`"));
    }
    check_attributes(&item.attrs, problems);
}

fn check_attributes(attributes: &[Attribute], problems: &mut Problems) {
    for attribute in attributes {
        if !["doc", "deprecated", "allow", "expect"].iter().any(|name| attribute.path().is_ident(name)) {
            let text = "a protocol takes only the attributes `doc`, `deprecated`, `allow` and `expect`";
            problems.add(Error::new_spanned(attribute, text));
        }
    }
}

impl Method {
    fn read(function: &TraitItemFn) -> syn::Result<Self> {
        let mut problems = Problems(None);
        let signature = &function.sig;
        let name = &signature.ident;
        check_attributes(&function.attrs, &mut problems);
        if RESERVED.iter().any(|reserved| name.unraw() == reserved) {
            let text = format!("`{name}` is a method of every `Remote` or `Address`: choose another name");
            problems.add(Error::new(name.span(), text));
        }
        if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
            problems.add(Error::new_spanned(
                &signature.generics,
                "a method of a protocol has no generic parameters: its messages have one form on the wire",
            ));
        }
        if let Some(body) = &function.default {
            let text = "a method of a protocol has no body: the service answers its message";
            problems.add(Error::new_spanned(body, text));
        }
        if let Some(word) =
            [signature.constness.map(|word| word.span), signature.unsafety.map(|word| word.span)]
                .into_iter()
                .flatten()
                .next()
        {
            problems
                .add(Error::new(word, "a method of a protocol is `fn` for a cast or `async fn` for a call"));
        }
        let reply = match (&signature.asyncness, &signature.output) {
            (None, ReturnType::Default) => None,
            (None, ReturnType::Type(_, answer)) => {
                let text = format!("a cast has no answer: make `{name}` an `async fn`, which is a call");
                problems.add(Error::new_spanned(answer, text));
                None
            }
            (Some(_), ReturnType::Default) => Some(syn::parse_quote!(())),
            (Some(_), ReturnType::Type(_, answer)) => {
                check_owned(answer, "an answer", &mut problems);
                Some((**answer).clone())
            }
        };
        let mut arguments = Vec::new();
        for input in &signature.inputs {
            match Self::argument(input, &mut problems) {
                Ok(argument) => arguments.push(argument),
                Err(error) => problems.add(error),
            }
        }
        problems.none()?;
        let variant = Ident::new(&camel_case(&name.unraw().to_string()), name.span());
        Ok(Self { name: name.clone(), variant, attributes: function.attrs.clone(), arguments, reply })
    }

    fn argument(input: &FnArg, problems: &mut Problems) -> syn::Result<(Ident, Type)> {
        let FnArg::Typed(typed) = input else {
            let text = "a method of a protocol is declared without `self`: the trait for callers gets it";
            return Err(Error::new_spanned(input, text));
        };
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(Error::new_spanned(&typed.pat, "an argument of a protocol is a name"));
        };
        let plain = pattern.by_ref.is_none() && pattern.mutability.is_none() && pattern.subpat.is_none();
        if !plain || !typed.attrs.is_empty() {
            return Err(Error::new_spanned(typed, "an argument of a protocol is a name and a type"));
        }
        if pattern.ident.unraw() == "reply" {
            let text = "`reply` is the field of a message that answers its call: choose another name";
            problems.add(Error::new(pattern.ident.span(), text));
        }
        check_owned(&typed.ty, "an argument", problems);
        Ok((pattern.ident.clone(), (*typed.ty).clone()))
    }

    /// Returns the documentation, one line after the other.
    fn docs(&self) -> String {
        docs(&self.attributes)
    }
}

fn check_owned(ty: &Type, what: &str, problems: &mut Problems) {
    match ty {
        Type::Reference(reference) => {
            let text = match &*reference.elem {
                Type::Path(path) if path.path.is_ident("str") => {
                    format!("{what} is owned: write `String`")
                }
                _ => format!("{what} is owned, because it travels: remove the `&`"),
            };
            problems.add(Error::new_spanned(ty, text));
        }
        Type::ImplTrait(_) => {
            problems.add(Error::new_spanned(ty, format!("{what} has a type with one form on the wire")));
        }
        _ => {}
    }
}

fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `store_all` becomes `StoreAll`.
fn camel_case(name: &str) -> String {
    let mut text = String::new();
    for word in name.split('_') {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.extend(letters);
    }
    text
}

fn generate(item: &ItemTrait, methods: &[Method]) -> TokenStream {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use syn::{ImplItem, Item, Visibility};

    use super::*;

    /// The public methods of the types that implement the traits of protocols.
    fn methods(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                methods(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
                found.extend(file.items.iter().flat_map(methods_of));
            }
        }
    }

    fn methods_of(item: &Item) -> Vec<String> {
        let Item::Impl(block) = item else { return Vec::new() };
        let Type::Path(path) = &*block.self_ty else { return Vec::new() };
        let name = path.path.segments.last().unwrap().ident.to_string();
        if block.trait_.is_some() || !["Remote", "Address", "Within"].contains(&name.as_str()) {
            return Vec::new();
        }
        let public = block.items.iter().filter_map(|item| match item {
            ImplItem::Fn(function) if matches!(function.vis, Visibility::Public(_)) => {
                Some(function.sig.ident.to_string())
            }
            _ => None,
        });
        public.collect()
    }

    #[test]
    fn every_method_of_a_caller_is_reserved() {
        let mut found = BTreeSet::new();
        methods(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut found);
        assert!(found.contains("call_within") && found.contains("send"), "{found:?}");
        let missing: Vec<_> = found.iter().filter(|name| !RESERVED.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn names_become_variants() {
        for (name, variant) in [("store", "Store"), ("store_all", "StoreAll"), ("a_b_c", "ABC"), ("_x", "X")]
        {
            assert_eq!(camel_case(name), variant);
        }
    }
}
