package psp

const (
	kindCard = "card"
	visa     = "visa"
)

// paymentMethod is one of the provider's test payment methods.
type paymentMethod struct {
	id        string
	brand     string
	last4     string
	challenge bool     // needs the shopper's approval (3-D Secure)
	bank      bool     // a bank debit: stays in processing
	decline   *decline // nil when the bank says yes
}

// decline is the bank's no, in the provider's words.
type decline struct{ code, reason, param, message string }

func (m *paymentMethod) kind() string {
	if m.bank {
		return "us_bank_account"
	}
	return kindCard
}

// paymentMethods are those of Stripe's testing page that the shop's tests use.
var paymentMethods = byID(
	paymentMethod{id: "pm_card_visa", brand: visa, last4: "4242"},
	paymentMethod{id: "pm_card_visa_debit", brand: visa, last4: "5556"},
	paymentMethod{id: "pm_card_mastercard", brand: "mastercard", last4: "4444"},
	paymentMethod{id: "pm_card_amex", brand: "amex", last4: "8431"},
	paymentMethod{id: "pm_card_threeDSecure2Required", brand: visa, last4: "3220", challenge: true},
	paymentMethod{id: "pm_card_authenticationRequired", brand: visa, last4: "3155", challenge: true},
	paymentMethod{id: "pm_usBankAccount_processing", last4: "0009", bank: true},
	paymentMethod{
		id: "pm_card_visa_chargeDeclined", brand: visa, last4: "0002",
		decline: &decline{code: "card_declined", reason: "generic_decline", message: "Your card was declined."},
	},
	paymentMethod{
		id: "pm_card_visa_chargeDeclinedInsufficientFunds", brand: visa, last4: "9995",
		decline: &decline{code: "card_declined", reason: "insufficient_funds", message: "Your card has insufficient funds."},
	},
	paymentMethod{
		id: "pm_card_visa_chargeDeclinedLostCard", brand: visa, last4: "9987",
		decline: &decline{code: "card_declined", reason: "lost_card", message: "Your card was declined."},
	},
	paymentMethod{
		id: "pm_card_visa_chargeDeclinedStolenCard", brand: visa, last4: "9979",
		decline: &decline{code: "card_declined", reason: "stolen_card", message: "Your card was declined."},
	},
	paymentMethod{
		id: "pm_card_chargeDeclinedExpiredCard", brand: visa, last4: "0069",
		decline: &decline{code: "expired_card", reason: "expired_card", param: "exp_month", message: "Your card has expired."},
	},
	paymentMethod{
		id: "pm_card_chargeDeclinedIncorrectCvc", brand: visa, last4: "0127",
		decline: &decline{code: "incorrect_cvc", reason: "incorrect_cvc", param: "cvc", message: "Your card's security code is incorrect."},
	},
	paymentMethod{
		id: "pm_card_chargeDeclinedProcessingError", brand: visa, last4: "0119",
		decline: &decline{
			code: "processing_error", reason: "processing_error",
			message: "An error occurred while processing your card. Try again in a little bit.",
		},
	},
)

func byID(methods ...paymentMethod) map[string]*paymentMethod {
	m := make(map[string]*paymentMethod, len(methods))
	for i := range methods {
		m[methods[i].id] = &methods[i]
	}
	return m
}
