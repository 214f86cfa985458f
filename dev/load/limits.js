// What the limits promise, asked of a running shop from outside: a burst gets exactly
// its calls, headers say what is left, Retry-After is honest, and nobody pays for
// somebody else. `make test-limits` runs it; it changes nothing in the shop.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';

export const options = {
  vus: 1,
  iterations: 1,
  batchPerHost: 40,
  batch: 40,
  thresholds: { checks: ['rate==1'] },
};

const gateway = __ENV.GATEWAY;
const as = (token) => ({ headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' }, responseCallback: http.expectedStatuses({ min: 200, max: 499 }) });

// A quote is of the class checkout and has no effect, whether the basket is empty or not.
const body = JSON.stringify({ shipping_address: { recipient: 'A', line1: '1 Way', city: 'Springfield', region: 'IL', postal_code: '62701', country_code: 'US' } });
const quote = (token) => http.post(`${gateway}/api/v1/orders:quote`, body, as(token));

// item reads "name";a=1;b=2.
function item(header) {
  const [name, ...parameters] = (header || '').split(';');
  return Object.assign({ name: JSON.parse(name || '""') }, Object.fromEntries(parameters.map((p) => [p.split('=')[0], Number(p.split('=')[1])])));
}

export default function () {
  const first = quote(__ENV.ALICE);
  if (first.status === 401) fail('the token is not good');
  const policy = item(first.headers['Ratelimit-Policy']);
  check(first, {
    'the policy is checkout, a minute': () => policy.name === 'checkout' && policy.w === 60 && policy.q > 0,
  });
  // Whatever was asked before, the whole quota is back after t seconds.
  sleep(item(first.headers.Ratelimit).t);

  const calls = policy.q;
  const burst = http.batch(Array.from({ length: calls + 15 }, () => ['POST', `${gateway}/api/v1/orders:quote`, body, as(__ENV.ALICE)]));
  const allowed = burst.filter((r) => r.status !== 429);
  const limited = burst.filter((r) => r.status === 429);
  console.log(`a burst of ${burst.length}: ${allowed.length} allowed, ${limited.length} limited; slowest ${Math.max(...burst.map((r) => r.timings.duration)).toFixed(1)} ms`);
  check(burst, {
    'a burst gets exactly its calls': () => allowed.length === calls && limited.length === 15,
    'every answer says the policy and what is left': () => burst.every((r) => item(r.headers['Ratelimit-Policy']).q === calls && item(r.headers.Ratelimit).name === 'checkout'),
    'what is left goes down to nothing, one by one': () => new Set(allowed.map((r) => item(r.headers.Ratelimit).r)).size === calls && Math.min(...allowed.map((r) => item(r.headers.Ratelimit).r)) === 0,
    'a refusal is a problem RATE_LIMITED': () => limited.every((r) => r.headers['Content-Type'] === 'application/problem+json' && r.json('reason') === 'RATE_LIMITED' && r.json('status') === 429),
    'a refusal says when, in whole seconds': () => limited.every((r) => /^[1-9][0-9]*$/.test(r.headers['Retry-After']) && Number(r.headers['Retry-After']) <= Math.ceil(60 / calls)),
  });
  check(quote(__ENV.BOB), { 'another subject has all its calls': (r) => r.status !== 429 && item(r.headers.Ratelimit).r >= calls - 2 });
  check(http.get(`${gateway}/api/v1/books?page_size=1`), { 'a stranger is not limited': (r) => r.status === 200 });
  check(http.get(`${gateway}/api/v1/basket`, as(__ENV.ALICE)), { 'another class is not limited': (r) => r.status === 200 });
  check(http.post(`${gateway}/bookworm.ordering.v1.OrderService/QuoteOrder`, '{}', as(__ENV.ALICE)), {
    'the same limit holds over Connect': (r) => r.status === 429 && r.json('code') === 'resource_exhausted' && r.json('details').some((d) => d.type === 'google.rpc.RetryInfo'),
  });

  const refused = quote(__ENV.ALICE);
  check(refused, { 'still limited': (r) => r.status === 429 });
  sleep(Number(refused.headers['Retry-After']));
  check(quote(__ENV.ALICE), { 'Retry-After is honest': (r) => r.status !== 429 });
}
