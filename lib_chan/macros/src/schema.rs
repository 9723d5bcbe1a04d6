//! The derive macro `Schema`: describes the wire form of a type, which serde's attributes change.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, Ident, parse_quote, parse2};

pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let mut item: DeriveInput = parse2(item)?;
    let container = Serde::read(&item.attrs)?;
    let name = container.rename.unwrap_or_else(|| item.ident.unraw().to_string());
    let body = match &item.data {
        Data::Struct(data) => match (&data.fields, container.transparent) {
            (Fields::Unnamed(fields), _) if fields.unnamed.len() == 1 => newtype(fields.unnamed.iter()),
            (fields, true) => newtype(fields.iter()),
            (fields, false) => {
                let fields = describe_fields(fields, container.rename_all)?;
                quote!(to.composite::<Self>("struct", #name, |to| { #fields });)
            }
        },
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let serde = Serde::read(&variant.attrs)?;
                let plain = variant.ident.unraw().to_string();
                let name = serde.rename.unwrap_or_else(|| match container.rename_all {
                    Some(rule) => rule.variant(&plain),
                    None => plain,
                });
                let fields = describe_fields(&variant.fields, serde.rename_all)?;
                Ok(quote!(to.variant(#name, |to| { #fields });))
            });
            let variants = variants.collect::<syn::Result<Vec<_>>>()?;
            quote!(to.composite::<Self>("enum", #name, |to| { to.open("{"); #(#variants)* to.close("}"); });)
        }
        Data::Union(_) => return Err(Error::new(item.ident.span(), "a union has no form on the wire")),
    };
    let ident = item.ident.clone();
    for parameter in item.generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::lib_chan::protocol::Schema));
    }
    let (generics, arguments, condition) = item.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::lib_chan::protocol::Schema for #ident #arguments #condition {
            fn describe(to: &mut ::lib_chan::protocol::Describer) {
                #body
            }
        }
    })
}

/// A newtype travels as its content.
fn newtype<'f>(mut fields: impl Iterator<Item = &'f Field>) -> TokenStream {
    let ty = fields.next().map(|field| &field.ty);
    quote!(<#ty as ::lib_chan::protocol::Schema>::describe(to);)
}

fn describe_fields(fields: &Fields, rename_all: Option<Case>) -> syn::Result<TokenStream> {
    let (open, close) = match fields {
        Fields::Named(_) => ("{", "}"),
        Fields::Unnamed(_) => ("(", ")"),
        Fields::Unit => return Ok(TokenStream::new()),
    };
    let mut described = TokenStream::new();
    for field in fields {
        let serde = Serde::read(&field.attrs)?;
        if serde.skip {
            continue;
        }
        let ty = &field.ty;
        let name = field.ident.as_ref().map(|ident: &Ident| {
            let plain = ident.unraw().to_string();
            serde.rename.unwrap_or_else(|| match rename_all {
                Some(rule) => rule.field(&plain),
                None => plain,
            })
        });
        let name = name.unwrap_or_default();
        described.extend(quote!(to.field::<#ty>(#name);));
    }
    Ok(quote!(to.open(#open); #described to.close(#close);))
}

/// The attributes of serde that are understood.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    rename_all: Option<Case>,
    skip: bool,
    transparent: bool,
}

impl Serde {
    fn read(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("rename") {
                    serde.rename = Some(meta.value()?.parse::<syn::LitStr>()?.value());
                } else if meta.path.is_ident("rename_all") {
                    let rule: syn::LitStr = meta.value()?.parse()?;
                    serde.rename_all = Some(Case::read(&rule)?);
                } else if meta.path.is_ident("skip") {
                    serde.skip = true;
                } else if meta.path.is_ident("transparent") {
                    serde.transparent = true;
                } else if meta.path.is_ident("default") || meta.path.is_ident("crate") {
                    // Neither changes the form on the wire.
                    if meta.input.peek(syn::Token![=]) {
                        meta.value()?.parse::<syn::LitStr>()?;
                    }
                } else if meta.path.is_ident("deny_unknown_fields") {
                } else {
                    return Err(meta.error(
                        "`Schema` does not know this attribute of serde: implement `Schema` for the type by hand",
                    ));
                }
                Ok(())
            })?;
        }
        Ok(serde)
    }
}

/// The rules of `rename_all`.
#[derive(Clone, Copy)]
enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    fn read(rule: &syn::LitStr) -> syn::Result<Self> {
        Ok(match rule.value().as_str() {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return Err(Error::new_spanned(rule, "serde has no such rule")),
        })
    }

    /// Renames a variant, which is in `PascalCase`.
    fn variant(self, name: &str) -> String {
        match self {
            Self::Pascal => name.to_owned(),
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Camel => first(name, |letter| letter.to_ascii_lowercase()),
            Self::Snake | Self::ScreamingSnake | Self::Kebab | Self::ScreamingKebab => {
                let mut snake = String::new();
                for (at, letter) in name.char_indices() {
                    if at > 0 && letter.is_uppercase() {
                        snake.push('_');
                    }
                    snake.push(letter.to_ascii_lowercase());
                }
                self.field(&snake)
            }
        }
    }

    /// Renames a field, which is in `snake_case`.
    fn field(self, name: &str) -> String {
        match self {
            Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
            Self::Pascal => {
                name.split('_').map(|word| first(word, |letter| letter.to_ascii_uppercase())).collect()
            }
            Self::Camel => first(&Self::Pascal.field(name), |letter| letter.to_ascii_lowercase()),
        }
    }
}

/// Changes the first letter.
fn first(word: &str, change: impl Fn(char) -> char) -> String {
    let mut letters = word.chars();
    letters.next().map(change).into_iter().chain(letters).collect()
}
