package chat

import "regexp"

// refusal is a question that is not answered, and what is said instead.
type refusal struct {
	topic  string
	when   *regexp.Regexp
	unless *regexp.Regexp // a book about it may be looked for
	answer string
}

const (
	onlyYours   = "I can only see your own orders and data, and nobody else's. What can I look up for you?"
	onlyBooks   = "I'm here for books, your orders and this shop. What would you like to read?"
	notMyRules  = "How I am set up is not something I talk about, and it does not change in a conversation. I'm glad to help with books, your orders and this shop."
	notHarm     = "I can't help with that. I'm glad to help with books, your orders and this shop."
	youMatter   = "I'm sorry that you feel this way. I'm only a bookseller, but you don't have to be alone with it: please call your local emergency number or a crisis line, or tell somebody close to you. I'm here whenever you would like a book."
	aboutBooks  = `(?i)\b(?:books?|novels?|titles?|read|reading|thrillers?|biograph\w+|histor(?:y|ies)|stor(?:y|ies)|memoirs?|fiction|recommend\w*)\b`
	ofSomebody  = `(?:some(?:body|one) else|(?:an)?other (?:customer|shopper|user|person|people|reader)|all (?:the )?(?:customer|shopper|user)s?|(?:my|the) (?:neighbou?r|friend|boss|ex|husband|wife|partner|colleague|mother|father|brother|sister|roommate|shopper before me)|every(?:body|one) else|(?:customer|user|shopper|subject)\s*(?:=|:|number|id|named|called)\s*\S+)`
	ownThings   = `(?:orders?|basket|cart|address|addresses|e-?mails?|phone|card|data|details|conversations?|account|history|purchases|parcel|deliver(?:y|ies))`
	mailAddress = `[\w.+-]+@[\w-]+\.\w+`
)

// refusals are looked through in this order; the first that fits answers. They
// read the question as it was written, in English; what they do not see is met by
// the other guards.
var refusals = []refusal{
	{
		topic: "self-harm",
		when:  regexp.MustCompile(`(?i)\b(?:(?:kill|hurt|harm|cut)(?:ing)? myself|(?:want|going|ready|rather) to (?:die|end (?:it all|my life))|end(?:ing)? my life|commit(?:ting)? suicide|how (?:to|do i|can i) (?:die|commit suicide))\b`),
		unless: regexp.MustCompile(
			`(?i)\b(?:book|novel|read|memoir|story|stories) (?:about|on|where|in which|that)\b`),
		answer: youMatter,
	},
	{
		topic: "somebody else's data",
		when: regexp.MustCompile(`(?i)\b` + ownThings + `\b[^.?!\n]{0,40}\b(?:of|from|by|belonging to|placed by)\s+(?:` + ofSomebody + `|` + mailAddress + `)` +
			`|\b` + ownThings + `\s+for\s+` + mailAddress +
			`|\b` + ofSomebody + `(?:['’]s?)?\s+(?:\w+\s+){0,2}` + ownThings + `\b` +
			`|\b(?:who|which (?:customers?|shoppers?|people)) (?:else )?(?:bought|ordered|purchased)\b` +
			`|\b(?:subject|user_?id|customer_?id|admin)\s*=` +
			`|\b(?:shopper|customer|user|person)s? before me\b`),
		answer: onlyYours,
	},
	{
		topic: "instructions",
		when: regexp.MustCompile(`(?i)\b(?:ignore|disregard|forget|override|bypass)\b[^.?!\n]{0,30}\b(?:instructions?|rules?|prompts?|guidelines?|guardrails?|polic(?:y|ies)|restrictions?)\b` +
			`|\b(?:system|hidden|secret|initial|original|developer)\s*(?:prompts?|messages?|instructions?)\b` +
			`|\b(?:your|these|all|complete|full|hidden)\s+(?:\w+\s+){0,2}(?:instructions|prompt|guidelines|working notes|system message)\b` +
			`|\bmy instructions, in full\b` +
			`|\b(?:repeat|print|show|reveal|output|dump|translate|summari[sz]e|spell out|copy)\b[^.?!\n]{0,40}\b(?:above|verbatim|word for word|before this|prompt|rules)\b` +
			`|\b(?:developer|debug|god|jailbreak|dan) mode\b|\byou are now\b|\bpretend (?:to be|you are|you have no)\b|\bjailbreak\b`),
		answer: notMyRules,
	},
	{
		topic: "harm",
		when: regexp.MustCompile(`(?i)\b(?:how (?:to|do i|can i|do you|would i)|(?:give|show|tell|write) me|steps to|instructions (?:to|for)|recipe for|help me)\b[^.?!\n]{0,60}\b` +
			`(?:bombs?|explosives?|molotov\w*|meth(?:amphetamine)?|heroin|fentanyl|nerve (?:gas|agent)s?|ricin|poison (?:some|my|a|the)\w*|malware|ransomware|virus(?:es)? that|` +
			`phishing|hack(?:ing)? (?:into )?(?:a|an|the|my|some|his|her|this)|steal|launder|counterfeit|credit card numbers?|ghost guns?|kill (?:some|my|a|him|her))`),
		unless: regexp.MustCompile(aboutBooks),
		answer: notHarm,
	},
	{
		topic: "other trades",
		when: regexp.MustCompile(`(?i)\b(?:write|debug|fix|generate|code)\b[^.?!\n]{0,30}\b(?:python|javascript|java|c\+\+|golang|sql|html|code|script|program|regex|function)\b` +
			`|\b(?:do|solve|finish) my (?:homework|assignment|exam|essay)\b` +
			`|\b(?:which|what) (?:stocks?|shares|crypto\w*) (?:should|to|can)\b|\bshould i (?:buy|sell) (?:stocks?|shares|bitcoin|crypto\w*)\b` +
			`|\bwho should i vote for\b|\b(?:diagnose|prescribe)\b[^.?!\n]{0,20}\b(?:me|my)\b`),
		unless: regexp.MustCompile(`(?i)\b(?:books?|novels?|titles?|read|guides?|textbooks?)\b`),
		answer: onlyBooks,
	},
}

// refuse returns what is said instead of an answer, or "" for a question that is
// answered.
func refuse(question string) string {
	for _, r := range refusals {
		if r.when.MatchString(question) && (r.unless == nil || !r.unless.MatchString(question)) {
			return r.answer
		}
	}
	return ""
}
