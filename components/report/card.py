def model_card(run):
    return ""
