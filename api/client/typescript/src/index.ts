/**
 * Client of the BookWorm bookshop, for browsers and Node.js 20 or later.
 *
 * The services and messages are generated from the shop's contract; what is here by hand connects to
 * the shop, reads its errors, and makes its conventions short to write.
 */
import { type CallOptions, type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { BasketService } from "./gen/bookworm/basket/v1/basket_pb.js";
import { CatalogAdminService, CatalogService } from "./gen/bookworm/catalog/v1/catalog_pb.js";
import { ChatService, type TurnEvent } from "./gen/bookworm/chat/v1/chat_pb.js";
import { AuditService, PrivacyService } from "./gen/bookworm/compliance/v1/compliance_pb.js";
import { PaymentService } from "./gen/bookworm/finance/v1/finance_pb.js";
import { PreferenceService } from "./gen/bookworm/notification/v1/notification_pb.js";
import { OrderService } from "./gen/bookworm/ordering/v1/ordering_pb.js";
import { ModerationService, RatingService } from "./gen/bookworm/rating/v1/rating_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";

// The messages and enums of each part of the shop.
export * as basketv1 from "./gen/bookworm/basket/v1/basket_pb.js";
export * as catalogv1 from "./gen/bookworm/catalog/v1/catalog_pb.js";
export * as chatv1 from "./gen/bookworm/chat/v1/chat_pb.js";
export * as compliancev1 from "./gen/bookworm/compliance/v1/compliance_pb.js";
export * as financev1 from "./gen/bookworm/finance/v1/finance_pb.js";
export * as notificationv1 from "./gen/bookworm/notification/v1/notification_pb.js";
export * as orderingv1 from "./gen/bookworm/ordering/v1/ordering_pb.js";
export * as ratingv1 from "./gen/bookworm/rating/v1/rating_pb.js";
export * as typev1 from "./gen/bookworm/type/v1/money_pb.js";
export { Code, ConnectError };

/** Where the shop is, and who calls. */
export interface Options {
  /** The gateway's address, for example "https://shop.example". */
  baseUrl: string;
  /**
   * Returns the caller's access token; it is asked before every call, so it can renew the token. Without
   * it, or where it returns nothing, calls are anonymous and only the catalogue can be read.
   */
  token?: () => string | undefined | Promise<string | undefined>;
  /** Replaces the global fetch. */
  fetch?: typeof globalThis.fetch;
}

/** The shop's services. All share one transport; keep one BookWorm for as long as there is one caller. */
export interface BookWorm {
  /** Find books. */
  readonly catalog: Client<typeof CatalogService>;
  /** Change the catalogue; for administrators. */
  readonly catalogAdmin: Client<typeof CatalogAdminService>;
  /** The caller's basket. */
  readonly basket: Client<typeof BasketService>;
  /** Quote, place, read and cancel orders. */
  readonly orders: Client<typeof OrderService>;
  /** How orders are paid. */
  readonly payments: Client<typeof PaymentService>;
  /** What the caller wants to hear by e-mail. */
  readonly preferences: Client<typeof PreferenceService>;
  /** Reviews. */
  readonly ratings: Client<typeof RatingService>;
  /** Decide on reviews; for the shop's staff. */
  readonly moderation: Client<typeof ModerationService>;
  /** The bookseller; see also ask. */
  readonly chat: Client<typeof ChatService>;
  /** The caller's own data: export and erasure. */
  readonly privacy: Client<typeof PrivacyService>;
  /** The log of what the shop's staff did; for administrators and reporters. */
  readonly audit: Client<typeof AuditService>;
}

/**
 * Returns the shop's services. It does not connect; the first call does. Calls without side effects are
 * GET requests, which browsers and proxies may cache as the answer says.
 *
 * A web page may call only from an origin that the gateway is configured for (BOOKWORM_CORS_ORIGINS).
 */
export function createBookWorm(options: Options): BookWorm {
  const transport = createConnectTransport({
    baseUrl: options.baseUrl,
    useHttpGet: true,
    interceptors: [authorize(options.token)],
    ...(options.fetch && { fetch: options.fetch }),
  });
  return {
    catalog: createClient(CatalogService, transport),
    catalogAdmin: createClient(CatalogAdminService, transport),
    basket: createClient(BasketService, transport),
    orders: createClient(OrderService, transport),
    payments: createClient(PaymentService, transport),
    preferences: createClient(PreferenceService, transport),
    ratings: createClient(RatingService, transport),
    moderation: createClient(ModerationService, transport),
    chat: createClient(ChatService, transport),
    privacy: createClient(PrivacyService, transport),
    audit: createClient(AuditService, transport),
  };
}

function authorize(token: Options["token"]): Interceptor {
  return (next) => async (request) => {
    const value = await token?.();
    if (value) {
      request.header.set("Authorization", `Bearer ${value}`);
    }
    return next(request);
  };
}

/**
 * Call options that carry an Idempotency-Key, which placeOrder, createBook and sendMessage need. Keep the
 * key and send the same request with it again when the answer got lost: it has its effect once. The key is
 * 1 to 255 visible ASCII characters; without one a new UUID is made, which suits only a call that is never
 * repeated.
 */
export function withIdempotencyKey(key: string = crypto.randomUUID(), options: CallOptions = {}): CallOptions {
  const headers = new Headers(options.headers);
  headers.set("Idempotency-Key", key);
  return { ...options, headers };
}

/** What is wrong with one field of a request. */
export interface FieldProblem {
  /** The field's path, as the contract names it. */
  readonly field: string;
  /** What is wrong with it, for people. */
  readonly problem: string;
}

/**
 * The shop's reason for an error, for example "OUT_OF_STOCK"; undefined for what is no answer of the shop,
 * such as a connection that fails. Branch on the reason, not on the text. docs/api.md lists them.
 */
export function reasonOf(error: unknown): string | undefined {
  return infoOf(error)?.reason;
}

/** What the shop says beside the reason, by name; empty when there is nothing. */
export function metadataOf(error: unknown): Readonly<Record<string, string>> {
  return infoOf(error)?.metadata ?? {};
}

/** The fields of the request that an error names; empty when it names none. */
export function fieldsOf(error: unknown): readonly FieldProblem[] {
  return ConnectError.from(error)
    .findDetails(BadRequestSchema)
    .flatMap((detail) => detail.fieldViolations)
    .map((violation) => ({ field: violation.field, problem: violation.description }));
}

function infoOf(error: unknown) {
  return ConnectError.from(error)
    .findDetails(ErrorInfoSchema)
    .find((detail) => detail.domain === "bookworm");
}

/** How to ask the bookseller. */
export interface AskOptions {
  /** The conversation to go on with; a new one without it. */
  conversationId?: string;
  /** The Idempotency-Key, to take the same question up again; a new one without it. */
  key?: string;
  /** Ends the question early. */
  signal?: AbortSignal;
}

/** One thing that happens while the bookseller answers. */
export interface Answering {
  /** The conversation it belongs to. */
  readonly conversationId: string;
  /** What happens: event.event.case is delta, tool, citation, card, error or done, which comes last. */
  readonly event: TurnEvent;
}

/** Asks the bookseller and yields what happens, as it happens. */
export async function* ask(bookworm: BookWorm, text: string, options: AskOptions = {}): AsyncGenerator<Answering, void> {
  const call = withIdempotencyKey(options.key, options.signal ? { signal: options.signal } : {});
  for await (const { conversationId, event } of bookworm.chat.sendMessage({ conversationId: options.conversationId ?? "", text }, call)) {
    if (event) {
      yield { conversationId, event };
    }
  }
}
